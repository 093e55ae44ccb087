"""DeepLabV3+."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import DeepLabConfig, DeepLabV3PlusForm
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, DeepLabConfig):
    """The model and its training loss."""


class SalientDeepLabV3Plus(WithSaliency, DeepLabV3PlusForm):
    """[B, C, H, W] -> saliency of every pixel, from the coarsest map by dilated convolutions, and the finest.

    Source: Encoder-Decoder with Atrous Separable Convolution, arXiv:1802.02611.
    """


MODEL = SalientDeepLabV3Plus
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientDeepLabV3Plus"]
