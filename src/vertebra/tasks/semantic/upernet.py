"""UperNet."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.decoders import UperNetConfig, UperNetForm
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import UPERNET_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, UperNetConfig):
    """The segmenter and its training loss."""


class UperNet(WithLabels, UperNetForm):
    """[B, C, H, W] -> logits of every pixel, from a pyramid with pooled context.

    Source: Unified Perceptual Parsing, arXiv:1807.10221.
    """


MODEL = UperNet
SOURCES = UPERNET_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "UperNet"]
