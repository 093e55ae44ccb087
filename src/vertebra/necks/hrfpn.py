"""HRNet's feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vertebra.nn.conv import Conv2d
from vertebra.structures import Level
from vertebra.weights import Rename


class HRFPN(nn.Module):
    """All maps resized to the finest, concatenated, and pooled to a pyramid (HRNetV2p): list of [B, C_i, h_i, w_i] ->
    list of [B, channels, h, w], each of half the previous size.

    Source: arXiv:1908.07919, section 3.4 and figure 4c; as implemented by the authors and MMDetection.
    """

    RULES = {  # noqa: RUF012
        "mmdet": (
            Rename(r"^neck\.reduction_conv\.conv\.", "neck.reduction."),
            Rename(r"^neck\.fpn_convs\.(\d)\.conv\.", r"neck.convs.\1."),
        ),
    }

    def __init__(self, levels: Sequence[Level], channels: int = 256, count: int = 4) -> None:
        """`levels` are the backbone's coarsest, which are used; `count` is the number of maps made, from their finest
        stride on."""
        super().__init__()
        self.num_inputs = len(levels)
        self.reduction = nn.Conv2d(sum(level.channels for level in levels), channels, 1)
        self.convs = nn.ModuleList(Conv2d(channels, channels, 3, padding=1) for _ in range(count))
        self.levels = tuple(Level(levels[0].stride * 2**i, channels) for i in range(count))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = maps[-self.num_inputs :]
        size = maps[0].shape[2:]
        coarser = (nn.functional.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps[1:])
        fused = self.reduction(torch.cat((maps[0], *coarser), 1))
        results = []
        for i, conv in enumerate(self.convs):
            tiny = min(fused.shape[2:]) < 2**i
            pooled = nn.functional.avg_pool2d(fused, 2**i, 2**i, ceil_mode=tiny) if i else fused
            results.append(conv(pooled))
        return results
