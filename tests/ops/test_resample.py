"""Bilinear interpolation by bands is torch's."""

import pytest
import torch
from torch.nn.functional import interpolate

from vertebra.ops import resample
from vertebra.ops.resample import label_map, resampled


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("cells", "size"), [((9, 13), (52, 17)), ((12, 12), (5, 7)), ((1, 3), (4, 1))])
def test_bands_are_interpolation(monkeypatch, cells, size, align_corners):
    monkeypatch.setattr(resample, "BAND", 200)  # several bands
    logits = torch.randn(5, *cells, generator=torch.Generator().manual_seed(0))
    expected = interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[0]
    torch.testing.assert_close(resampled(logits, size, align_corners=align_corners), expected, atol=1e-5, rtol=1e-5)
    assert label_map(logits, size, align_corners=align_corners).equal(expected.argmax(0).to(torch.uint8))


def test_padding_is_left_out():
    logits = torch.arange(8.0).reshape(1, 2, 4)
    half = resampled(logits, (2, 2), share=(1.0, 0.5))
    torch.testing.assert_close(half, logits[:, :, :2])
