"""Deformable convolution as a layer that predicts its own offsets."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vertebra.errors import VertebraError
from vertebra.nn.conv import ConvNorm
from vertebra.ops.deform import deform_conv2d


class DeformConv2d(nn.Conv2d):
    """A deformable convolution in place of a plain one, whose weights it has: [B, C, H, W] -> [B, C', h, w].

    A convolution of the same geometry predicts the offsets, which are zero at first. If `modulated`, it also predicts
    a factor in 0..1 of each sample, 0.5 at first.

    Source: arXiv:1703.06211, section 2.1; modulated arXiv:1811.11168, section 3.2.
    """

    def __init__(self, conv: nn.Conv2d, groups: int, modulated: bool) -> None:
        """`groups` divide the input channels; each has its own offsets."""
        geometry: Any = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        super().__init__(conv.in_channels, conv.out_channels, **geometry, groups=conv.groups, bias=False, device="meta")
        self.weight, self.bias, self.modulated = conv.weight, conv.bias, modulated
        places = conv.kernel_size[0] * conv.kernel_size[1]
        self.offset = nn.Conv2d(conv.in_channels, (3 if modulated else 2) * groups * places, **geometry)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset(x), None
        if self.modulated:
            count = offset.shape[1] // 3
            offset, mask = offset.split((2 * count, count), 1)
            mask = mask.sigmoid()
        geometry: Any = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return deform_conv2d(x, offset, self.weight, self.bias, mask, **geometry)


def deform(module: nn.Module, groups: int, modulated: bool) -> None:
    """Makes every 3x3 convolution with a norm inside `module` deformable, in place.

    Raises:
        VertebraError: if `groups` do not divide its channels.
    """
    for layer in list(module.modules()):
        if isinstance(layer, ConvNorm) and layer.conv.kernel_size == (3, 3):
            channels = layer.conv.in_channels
            if channels % groups:
                raise VertebraError(f"dcn_groups is {groups}; it must divide the {channels} channels of a convolution.")
            layer.conv = DeformConv2d(layer.conv, groups, modulated)
