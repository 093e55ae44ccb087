"""Faster R-CNN over a single map (C4)."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
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

WEIGHTS = {
    **zoo.detectron2(
        "COCO-Detection",
        ("faster_rcnn_R_50_C4_1x", "137257644/model_final_721ade", "resnet50", 35.7),
        ("faster_rcnn_R_50_C4_3x", "137849393/model_final_f97cb7", "resnet50", 38.4),
        ("faster_rcnn_R_101_C4_3x", "138204752/model_final_298dad", "resnet101", 41.1),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "FasterRCNNC4"]
