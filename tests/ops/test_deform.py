"""Deformable convolution, by hand and as torchvision computes it."""

import pytest
import torch
from torch.nn.functional import conv2d
from torchvision import ops

from vertebra.ops.deform import deform_conv2d


def test_samples_lie_at_offsets_and_are_zero_outside():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    weight = torch.full((1, 1, 1, 1), 2.0)
    offset = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 3, 3)  # one row down, half a column to the right
    y = deform_conv2d(x, offset, weight)
    # (3 + 4) / 2 and so on; in the last column half of 5 and 8, in the last row nothing.
    expected = torch.tensor([[7.0, 9, 5], [13, 15, 8], [0, 0, 0]])
    torch.testing.assert_close(y[0, 0], expected)
    mask = torch.full((1, 1, 3, 3), 0.5)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, torch.ones(1), mask)[0, 0], expected / 2 + 1)


def test_without_offsets_it_is_a_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 7, 6), torch.randn(6, 2, 3, 3)
    expected = conv2d(x, weight, None, 2, 2, 2, 2)
    offset = torch.zeros(2, 18, *expected.shape[2:])
    y = deform_conv2d(x, offset, weight, stride=(2, 2), padding=(2, 2), dilation=(2, 2))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


GEOMETRIES = [  # kernel, stride, padding, dilation
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (2, 2), (2, 2)),
    ((2, 3), (1, 2), (0, 1), (1, 1)),
]


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRIES)
def test_as_torchvision_computes_it(kernel, stride, padding, dilation, modulated):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 7, 9), torch.randn(6, 4, *kernel), torch.randn(6)
    height, width = conv2d(x, weight, None, stride, padding, dilation, 2).shape[2:]
    places = 4 * kernel[0] * kernel[1]  # four groups of channels
    offset, mask = 2 * torch.randn(2, 2 * places, height, width), torch.rand(2, places, height, width)
    given = [x, offset, weight, bias, *([mask] if modulated else [])]
    for tensor in given:
        tensor.requires_grad_()
    mask = mask if modulated else None
    y = deform_conv2d(x, offset, weight, bias, mask, stride=stride, padding=padding, dilation=dilation)
    expected = ops.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    factors = torch.randn_like(y)
    gradients = torch.autograd.grad((y * factors).sum(), given)
    for a, b in zip(gradients, torch.autograd.grad((expected * factors).sum(), given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_an_empty_batch():
    offset = torch.zeros(0, 36, 5, 5)
    y = deform_conv2d(torch.zeros(0, 4, 5, 5), offset, torch.zeros(6, 4, 3, 3), padding=(1, 1))
    assert y.shape == (0, 6, 5, 5)


def test_half_precision_samples_in_float32():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 6, 300), torch.randn(4, 4, 3, 3)
    offset = torch.randn(1, 18, 6, 300).bfloat16()
    expected = deform_conv2d(x, offset, weight, padding=(1, 1))
    half = deform_conv2d(x.bfloat16(), offset, weight.bfloat16(), padding=(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        autocast = deform_conv2d(x, offset, weight, padding=(1, 1))
    for y in (half, autocast):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)  # column 299 has no place in bfloat16
