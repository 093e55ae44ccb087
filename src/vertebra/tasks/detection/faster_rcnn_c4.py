"""Faster R-CNN over a single map (C4)."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import C4_SOURCES
from vertebra.tasks.two_stage import C4Config, C4Form


@dataclass(frozen=True)
class Config(C4Config):
    """The detector and its training loss. Defaults are those of the papers."""


class FasterRCNNC4(C4Form):
    """[B, C, H, W] -> boxes of each image, from proposals over one map of stride 16.

    Source: arXiv:1506.01497.
    """


MODEL = FasterRCNNC4
SOURCES = C4_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "FasterRCNNC4"]
