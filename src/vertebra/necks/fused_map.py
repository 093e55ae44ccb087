"""One feature map fused from all levels of a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.pool import average_pool
from vertebra.structures import Level


class FusedMap(nn.Module):
    """Maps resized to one size, concatenated and reduced: list of [B, C_i, h_i, w_i] -> [B, channels, h, w], of stride
    16 or the next smaller stride of the backbone.

    It replaces the C4 map in families whose last stage cannot be taken off. Concatenating maps of every scale is
    HRNetV2's way (arXiv:1908.07919, section 3.4).
    """

    def __init__(self, levels: Sequence[Level], channels: int) -> None:
        """`levels` are the backbone's; those of stride 4 and more are used."""
        super().__init__()
        self.used = [i for i, level in enumerate(levels) if level.stride >= 4]
        fine = [i for i in self.used if levels[i].stride <= 16]
        self.base = fine[-1] if fine else self.used[0]  # the map whose size all are resized to
        self.grow = 1 if fine else levels[self.base].stride // 16
        self.reduce = ConvNorm(sum(levels[i].channels for i in self.used), channels, norm=False)
        init.fill([self.reduce], init.before_relu)
        self.levels = (Level(levels[self.base].stride // self.grow, channels),)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        height, width = (side * self.grow for side in maps[self.base].shape[2:])
        resized = [
            average_pool(maps[i], (height, width))
            if i < self.base
            else interpolate(maps[i], (height, width), mode="bilinear", align_corners=False)
            for i in self.used
        ]
        fused: Tensor = self.reduce(torch.cat(resized, 1))
        return fused
