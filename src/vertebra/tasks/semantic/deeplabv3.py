"""DeepLabV3."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.decoders import DeepLabConfig, DeepLabV3Form
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import DEEPLABV3_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, DeepLabConfig):
    """The segmenter and its training loss."""


class DeepLabV3(WithLabels, DeepLabV3Form):
    """[B, C, H, W] -> logits of every pixel, from the coarsest map by dilated convolutions.

    Source: Rethinking Atrous Convolution, arXiv:1706.05587.
    """


MODEL = DeepLabV3
SOURCES = DEEPLABV3_SOURCES
WEIGHTS = zoo.torchvision("deeplabv3_resnet50", "deeplabv3_resnet101")

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "DeepLabV3"]
