"""One map from all of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.structures import Level


class OneMap(nn.Module):
    """Maps brought to one size, joined and reduced: list of [B, C_i, h_i, w_i] -> [B, channels, h, w], of stride 16 or
    the nearest below it that there is.

    It stands where ResNets have the map of their last stage but one, in families that have no stage to spare. Joining
    maps of every scale is HRNetV2's way (arXiv:1908.07919, section 3.4).
    """

    def __init__(self, levels: Sequence[Level], channels: int) -> None:
        """`levels` are the backbone's, of which those of a stride of 4 and more are used."""
        super().__init__()
        self.used = [i for i, level in enumerate(levels) if level.stride >= 4]
        fine = [i for i in self.used if levels[i].stride <= 16]
        self.base = fine[-1] if fine else self.used[0]  # the map whose size all take
        self.grow = 1 if fine else levels[self.base].stride // 16
        self.reduce = ConvNorm(sum(levels[i].channels for i in self.used), channels, norm=False)
        init.fill([self.reduce], init.before_relu)
        self.levels = (Level(levels[self.base].stride // self.grow, channels),)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        height, width = (side * self.grow for side in maps[self.base].shape[2:])
        alike = [
            adaptive_avg_pool2d(maps[i], (height, width))
            if i < self.base
            else interpolate(maps[i], (height, width), mode="bilinear", align_corners=False)
            for i in self.used
        ]
        joined: Tensor = self.reduce(torch.cat(alike, 1))
        return joined
