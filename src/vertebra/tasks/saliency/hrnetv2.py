"""The HRNetV2 head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import HRNetV2Config, HRNetV2Form
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, HRNetV2Config):
    """The model and its training loss."""


class SalientHRNetV2(WithSaliency, HRNetV2Form):
    """[B, C, H, W] -> saliency of every pixel, from all maps at the finest resolution.

    Source: High-Resolution Representations, arXiv:1908.07919, section 3.4.
    """


MODEL = SalientHRNetV2
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientHRNetV2"]
