"""Object-contextual representations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import OCRConfig, OCRForm
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, OCRConfig):
    """The model and its training loss."""


class SalientOCR(WithSaliency, OCRForm):
    """[B, C, H, W] -> saliency of every pixel, from pixels that attend to object regions.

    Source: Segmentation Transformer: Object-Contextual Representations, arXiv:1909.11065.
    """


MODEL = SalientOCR
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientOCR"]
