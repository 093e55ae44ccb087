"""Cascade R-CNN."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import CASCADE_SOURCES
from vertebra.tasks.two_stage import CascadeConfig, CascadeForm


@dataclass(frozen=True)
class Config(CascadeConfig):
    """The detector and its training loss. Defaults are those of the papers."""


class CascadeRCNN(CascadeForm):
    """[B, C, H, W] -> boxes of each image, from three box heads in sequence.

    Source: arXiv:1712.00726.
    """


MODEL = CascadeRCNN
SOURCES = CASCADE_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "CascadeRCNN", "Config"]
