"""The HRNetV2 head."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.decoders import HRNetV2Config, HRNetV2Form
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import HRNETV2_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, HRNetV2Config):
    """The segmenter and its training loss."""


class HRNetV2(WithLabels, HRNetV2Form):
    """[B, C, H, W] -> logits of every pixel, from all maps at the finest resolution.

    Source: High-Resolution Representations, arXiv:1908.07919, section 3.4.
    """


MODEL = HRNetV2
SOURCES = HRNETV2_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "HRNetV2"]
