"""RepPoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vertebra.heads.reppoints import RepPointsHead
from vertebra.tasks import zoo
from vertebra.tasks.base import Size
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import BACKBONES, PREPROCESS, dense_options, detector_rules, number_levels
from vertebra.tasks.points_detector import PointsConfig, PointsDetector
from vertebra.tasks.sources import Source, Tensors


@dataclass(frozen=True)
class Config(PointsConfig):
    """The detector and its training loss. Defaults are those of the paper."""


class RepPoints(PointsDetector):
    """[B, C, H, W] -> boxes of each image, from sets of points at all cells of a pyramid at once.

    Source: arXiv:1904.11490.
    """

    head = RepPointsHead

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Of each of the five levels, logits [B, num_classes, h, w] and boxes [B, 4, h, w] in input pixels: ten
        tensors, level by level."""
        raw = self.dense(self.features(images))
        boxes = [self.dense.boxes(points, s) for (_, _, points), s in zip(raw, self.dense.strides, strict=True)]
        return tuple(x for (logits, *_), box in zip(raw, boxes, strict=True) for x in (logits, box))


def _options(tensors: Tensors) -> dict[str, Any]:
    options = dense_options(tensors)
    # The published files that have no factors are those of RepPoints v2's authors.
    return options if tensors.has("dense.moment") else options | {"conversion": "corners", "nms_threshold": 0.6}


MODEL = RepPoints
SOURCES = {
    "mmdet": Source(
        marks=(r"^bbox_head\.reppoints_cls_conv\.",),
        without=(r"^bbox_head\.reppoints_(hem|sem)_",),  # RepPoints v2
        backbone=BACKBONES["mmdet"],
        rules=detector_rules("mmdet", RepPointsHead),
        finish=number_levels,
        preset={"min_box_size": 1e-6, "extra_levels.relu": False, "box_loss.beta": 0.11},
        options=_options,
        num_classes=lambda tensors: tensors.width("dense.classify.bias"),
        preprocess=PREPROCESS["mmdet"],
    ),
}
WEIGHTS = zoo.mmdet(
    "reppoints",
    ("reppoints_moment_r50_fpn_1x", "_20200330-b73db8d1", "resnet50", 37.0),
    ("reppoints_moment_r50_fpn_gn-neck+head_1x", "_20200329_145952-3e51b550", "resnet50", 38.1),
    ("reppoints_moment_r50_fpn_gn-neck+head_2x", "_20200329-91babaa2", "resnet50", 38.6),
    ("reppoints_moment_r101_fpn_gn-neck+head_2x", "_20200329-4fbc7310", "resnet101", 40.5),
    ("reppoints_moment_r101_fpn_dconv_c3-c5_gn-neck+head_2x", "_20200329-3309fbf2", "resnet101", 42.9),
    ("reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck+head_2x", "_20200329-f87da1ea", "resnext101_32x4d", 44.2),
)

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "RepPoints"]
