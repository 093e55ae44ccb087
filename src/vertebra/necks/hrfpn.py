"""HRNet's feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vertebra.structures import Level
from vertebra.weights import Rename


class HRFPN(nn.Module):
    """All maps resized to the finest, joined, and pooled to a pyramid again (HRNetV2p): list of [B, C_i, h_i, w_i] ->
    list of [B, channels, h, w], each half the one before.

    Source: arXiv:1908.07919, section 3.4 and figure 4c; as the authors and MMDetection have it.
    """

    RULES = {  # noqa: RUF012
        "mmdet": (
            Rename(r"^neck\.reduction_conv\.conv\.", "neck.reduction."),
            Rename(r"^neck\.fpn_convs\.(\d)\.conv\.", r"neck.convs.\1."),
        ),
    }

    def __init__(self, levels: Sequence[Level], channels: int = 256, count: int = 4) -> None:
        """`levels` are the backbone's, or the coarser ones of them, which alone are used; `count` is how many maps are
        made, from the finest stride among them on."""
        super().__init__()
        self.used = len(levels)
        self.reduction = nn.Conv2d(sum(level.channels for level in levels), channels, 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count))
        self.levels = tuple(Level(levels[0].stride * 2**i, channels) for i in range(count))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = maps[-self.used :]
        size = maps[0].shape[2:]
        rest = (nn.functional.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps[1:])
        joined = self.reduction(torch.cat((maps[0], *rest), 1))
        results = []
        for i, conv in enumerate(self.convs):
            tiny = min(joined.shape[2:]) < 2**i
            pooled = nn.functional.avg_pool2d(joined, 2**i, 2**i, ceil_mode=tiny) if i else joined
            results.append(conv(pooled))
        return results
