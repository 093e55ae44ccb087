"""UperNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.tasks.decoders import UperNetConfig, UperNetForm
from vertebra.tasks.saliency.maps import WithSaliency, WithSaliencyOptions
from vertebra.tasks.segmenter import RECIPE


@dataclass(frozen=True)
class Config(WithSaliencyOptions, UperNetConfig):
    """The model and its training loss."""


class SalientUperNet(WithSaliency, UperNetForm):
    """[B, C, H, W] -> saliency of every pixel, from a pyramid with pooled context.

    Source: Unified Perceptual Parsing, arXiv:1807.10221.
    """


MODEL = SalientUperNet
SOURCES: dict[str, Any] = {}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SalientUperNet"]
