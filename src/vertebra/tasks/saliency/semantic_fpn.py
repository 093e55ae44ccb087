"""Semantic FPN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import SemanticFPNConfig, SemanticFPNForm
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, SemanticFPNConfig):
    """The model and its training loss."""


class SalientSemanticFPN(WithSaliency, SemanticFPNForm):
    """[B, C, H, W] -> saliency of every pixel, from the sum of a pyramid's levels.

    Source: Panoptic Feature Pyramid Networks, arXiv:1901.02446, section 3.
    """


MODEL = SalientSemanticFPN
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientSemanticFPN"]
