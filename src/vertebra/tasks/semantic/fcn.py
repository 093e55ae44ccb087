"""FCN."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.decoders import FCNConfig, FCNForm
from vertebra.tasks.segmenter import RECIPE
from vertebra.tasks.segmenter_sources import FCN_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, FCNConfig):
    """The segmenter and its training loss."""


class FCN(WithLabels, FCNForm):
    """[B, C, H, W] -> logits of every pixel, from the coarsest map.

    Source: Fully Convolutional Networks, arXiv:1411.4038.
    """


MODEL = FCN
SOURCES = FCN_SOURCES
WEIGHTS = zoo.torchvision("fcn_resnet50", "fcn_resnet101")

__all__ = ["FCN", "MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config"]
