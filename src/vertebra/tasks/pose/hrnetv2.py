"""The HRNetV2 head for landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra.errors import in_range
from vertebra.heads.decode import FCNHead
from vertebra.structures import Level
from vertebra.tasks.top_down import RECIPE, TopDown, TopDownConfig
from vertebra.tasks.top_down_sources import HRNETV2_SOURCES


@dataclass(frozen=True)
class Config(TopDownConfig):
    """The network, its training loss, and how heatmaps are read."""

    backbone: str = "hrnet_w18"
    """Public name of the backbone; `vertebra models` lists them."""
    input_size: tuple[int, int] = (256, 256)
    """(height, width) of the input in pixels; `data.image_size` keeps their ratio."""
    channels: int = 0
    """Channels of the convolution on all maps; 0 takes those of all maps together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("channels", self.channels, 0, 65_536)


class HRNetV2Landmarks(TopDown):
    """An object [B, C, H, W] -> heatmaps [B, K, h, w] of the size of the backbone's finest map, from all its maps.

    Source: Deep High-Resolution Representation Learning for Visual Recognition, arXiv:1908.07919, section 7 (facial
    landmarks).
    """

    def features(self, images: Tensor) -> list[Tensor]:
        """All maps, finest first."""
        maps: list[Tensor] = self.backbone(images)
        return maps

    def make_head(self, levels: Sequence[Level], num_keypoints: int) -> nn.Module:
        self.stride = levels[0].stride
        channels = self.config.channels or sum(level.channels for level in levels)
        return FCNHead(levels, channels, num_keypoints, kernel=1, bias=True, dropout=0.0)


MODEL = HRNetV2Landmarks
SOURCES = HRNETV2_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "HRNetV2Landmarks"]
