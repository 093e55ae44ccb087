"""Operations that are written in another way for exported programs compute the same."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from vertebra.ops.boxes import clip, limits
from vertebra.ops.convolve import conv_of_resized
from vertebra.ops.pool import average_pool
from vertebra.ops.roi import multiscale_roi_align


@pytest.fixture
def exporting(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


@pytest.mark.parametrize("size", [1, 3, 6, (2, 5)])
def test_average_pool(exporting, size):
    x = torch.randn(2, 4, 11, 8)
    torch.testing.assert_close(average_pool(x, size), adaptive_avg_pool2d(x, size), atol=1e-5, rtol=1e-5)


def test_average_pool_by_hand(exporting):
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    assert average_pool(x, (1, 2)).tolist() == [[[[2.0, 4.0]]]]  # cells share the middle value


def test_convolution_of_resized_maps(monkeypatch):
    maps = [torch.randn(1, 3, 12, 16), torch.randn(1, 2, 3, 4)]
    weight, bias = torch.randn(5, 5, 3, 3), torch.randn(5)
    usual = conv_of_resized(maps, weight, bias, (12, 16))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(conv_of_resized(maps, weight, bias, (12, 16)), usual, atol=1e-4, rtol=1e-4)


def test_sizes_as_tensors():
    assert limits([(10, 20), (5, 6)]).tolist() == [[20, 10, 20, 10], [6, 5, 6, 5]]
    boxes = torch.tensor([[-3.0, 2.0, 30.0, 8.0], [1.0, -1.0, 4.0, 12.0]])
    assert clip(boxes, torch.tensor([10, 20])).tolist() == [[0, 2, 20, 8], [1, 0, 4, 10]]
    assert torch.equal(clip(boxes, (10, 20)), clip(boxes, torch.tensor([10, 20])))


def test_rois_of_all_images_in_one_tensor():
    maps = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)]
    boxes = torch.tensor([[[2.0, 3.0, 30.0, 40.0], [0.0, 0.0, 60.0, 60.0]], [[5.0, 5.0, 9.0, 20.0]] * 2])
    one, other = (multiscale_roi_align(maps, (4, 8), form, 3) for form in (boxes, list(boxes)))
    assert torch.equal(one, other)
