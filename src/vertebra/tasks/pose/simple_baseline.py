"""SimpleBaseline and HRNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vertebra import backbones
from vertebra.errors import in_range
from vertebra.heads.heatmap import DeconvHead
from vertebra.structures import Level
from vertebra.tasks.top_down import RECIPE, TopDown, TopDownConfig
from vertebra.tasks.top_down_sources import SIMPLE_BASELINE_SOURCES


@dataclass(frozen=True)
class Config(TopDownConfig):
    """The network, its training loss, and how heatmaps are read."""

    channels: int = 256
    """Channels of the transposed convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("channels", self.channels, 1, 65_536)


class SimpleBaseline(TopDown):
    """An object [B, C, H, W] -> heatmaps [B, K, H / 4, W / 4], from the backbone's coarsest map.

    Transposed convolutions double its sides until its stride is about 4; over HRNets, whose finest map has passed all
    stages, none is needed, and the model is that of HRNet.

    Sources: Simple Baselines for Human Pose Estimation and Tracking, arXiv:1804.06208; Deep High-Resolution
    Representation Learning for Human Pose Estimation, arXiv:1902.09212.
    """

    def backbone_defaults(self) -> dict[str, Any]:
        return dict(backbones.family(self.config.backbone).MODEL.finest_only)

    def make_head(self, levels: Sequence[Level], num_keypoints: int) -> nn.Module:
        stride, channels = levels[-1].stride, levels[-1].channels
        num_deconvs = max(0, round(math.log2(stride / 4)))
        self.stride = stride / 2**num_deconvs
        return DeconvHead(channels, self.config.channels, num_deconvs, num_keypoints)


MODEL = SimpleBaseline
SOURCES = SIMPLE_BASELINE_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SimpleBaseline"]
