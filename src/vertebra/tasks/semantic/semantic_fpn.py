"""Semantic FPN."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.decoders import SemanticFPNConfig, SemanticFPNForm
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import SEMANTIC_FPN_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, SemanticFPNConfig):
    """The segmenter and its training loss."""


class SemanticFPN(WithLabels, SemanticFPNForm):
    """[B, C, H, W] -> logits of every pixel, from the sum of a pyramid's levels.

    Source: Panoptic Feature Pyramid Networks, arXiv:1901.02446, section 3.
    """


MODEL = SemanticFPN
SOURCES = SEMANTIC_FPN_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "SemanticFPN"]
