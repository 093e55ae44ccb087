"""FCN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import FCNConfig, FCNForm
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, FCNConfig):
    """The model and its training loss."""


class SalientFCN(WithSaliency, FCNForm):
    """[B, C, H, W] -> saliency of every pixel, from the coarsest map.

    Source: Fully Convolutional Networks, arXiv:1411.4038.
    """


MODEL = SalientFCN
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientFCN"]
