"""DeepLabV3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import DeepLabConfig, DeepLabV3Form
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, DeepLabConfig):
    """The model and its training loss."""


class SalientDeepLabV3(WithSaliency, DeepLabV3Form):
    """[B, C, H, W] -> saliency of every pixel, from the coarsest map by dilated convolutions.

    Source: Rethinking Atrous Convolution, arXiv:1706.05587.
    """


MODEL = SalientDeepLabV3
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientDeepLabV3"]
