"""DeepLabV3+."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.decoders import DeepLabConfig, DeepLabV3PlusForm
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import DEEPLABV3PLUS_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, DeepLabConfig):
    """The segmenter and its training loss."""


class DeepLabV3Plus(WithLabels, DeepLabV3PlusForm):
    """[B, C, H, W] -> logits of every pixel, from the coarsest map by dilated convolutions, and the finest.

    Source: Encoder-Decoder with Atrous Separable Convolution, arXiv:1802.02611.
    """


MODEL = DeepLabV3Plus
SOURCES = DEEPLABV3PLUS_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "DeepLabV3Plus"]
