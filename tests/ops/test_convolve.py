"""A convolution of resized maps, computed on their own cells."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from vertebra.nn.conv import ConvOfMaps
from vertebra.nn.fold import fold
from vertebra.ops.convolve import conv_of_resized

MAPS = ((1, 5, 12, 9), (1, 3, 6, 4), (1, 4, 11, 9), (1, 2, 1, 1), (1, 3, 5, 6))
"""The size of the result, halves, a size too close to it, one cell, and another that divides it not."""


def resized(maps, size, align_corners):
    return torch.cat([interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in maps], 1)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_it_equals_the_convolution_of_the_concatenated_maps(kernel, align_corners):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, *shape[1:], generator=generator, requires_grad=True) for shape in MAPS]
    weight = torch.randn(7, 17, kernel, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(7, generator=generator)
    expected = conv2d(resized(maps, (12, 9), align_corners), weight, bias, padding=kernel // 2)
    y = conv_of_resized(maps, weight, bias, (12, 9), align_corners)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(x.square().sum(), [*maps, weight]) for x in (y, expected)]
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-2)


def test_the_bias_is_added_once_where_no_map_has_the_size():
    x = torch.zeros(1, 1, 2, 2)
    y = conv_of_resized([x, x], torch.ones(1, 2, 3, 3), torch.tensor([3.0]), (8, 8))
    assert torch.equal(y, torch.full((1, 1, 8, 8), 3.0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_norm_is_folded(memory_format):
    torch.manual_seed(0)
    model = nn.ModuleDict({"fuse": ConvOfMaps(17, 6, 3)}).eval()
    norm = model["fuse"].norm
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    maps = [torch.randn(shape).contiguous(memory_format=memory_format) for shape in MAPS]
    with torch.no_grad():
        expected = norm(model["fuse"].conv(resized(maps, (12, 9), False))).relu()
        torch.testing.assert_close(model["fuse"](maps, (12, 9)), expected, rtol=1e-4, atol=1e-4)
        folded = fold(model)
        assert isinstance(folded["fuse"].norm, nn.Identity)
        torch.testing.assert_close(folded["fuse"](maps, (12, 9)), expected, rtol=1e-4, atol=1e-4)
