"""Faster R-CNN over a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import FPN_SOURCES
from vertebra.tasks.two_stage import FPNConfig, FPNForm


@dataclass(frozen=True)
class Config(FPNConfig):
    """The detector and its training loss. Defaults are those of the papers."""


class FasterRCNN(FPNForm):
    """[B, C, H, W] -> boxes of each image, from proposals over a feature pyramid.

    Source: arXiv:1506.01497; with a pyramid arXiv:1612.03144, section 4.2.
    """


MODEL = FasterRCNN
SOURCES = FPN_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "FasterRCNN"]
