"""ViTPose with its simple decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vertebra.heads.heatmap import UpsampleHead
from vertebra.options import adjustable
from vertebra.structures import Level
from vertebra.tasks import top_down
from vertebra.tasks.top_down import TopDown, TopDownConfig
from vertebra.tasks.top_down_sources import VITPOSE_SOURCES


@dataclass(frozen=True)
class Config(TopDownConfig):
    """The network, its training loss, and how heatmaps are read."""

    backbone: str = "vit_base_16"
    """Public name of the backbone; `vertebra models` lists them."""
    udp: bool = True
    """Unbiased data processing: the centres of the corner cells of image, input and heatmap coincide, and Gaussians are
    centred on the keypoints."""
    decoding: Literal["none", "quarter", "dark"] = adjustable("dark")
    """How the highest cell is refined: `none`, by a `quarter` of a cell towards the higher neighbour, or to the maximum
    of a Gaussian with the heatmap's derivatives (`dark`)."""


class ViTPose(TopDown):
    """An object [B, C, H, W] -> heatmaps [B, K, H / 4, W / 4]: one 3x3 convolution of the coarsest map, upsampled.

    The classic decoder of the paper, with transposed convolutions, is method simple_baseline.

    Source: ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation, arXiv:2204.12484.
    """

    def make_head(self, levels: Sequence[Level], num_keypoints: int) -> nn.Module:
        factor = max(1, round(levels[-1].stride / 4))
        self.stride = levels[-1].stride / factor
        return UpsampleHead(levels[-1].channels, factor, num_keypoints)


MODEL = ViTPose
RECIPE: dict[str, Any] = {
    **top_down.RECIPE,
    "lr": 5e-4,
    "base_batch_size": 512,
    "weight_decay": 0.1,
    "layer_decay": 0.75,
}
SOURCES = VITPOSE_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "ViTPose"]
