"""RepPoints v2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vertebra.heads.reppoints_v2 import RepPointsV2Head
from vertebra.ops.boxes import limits
from vertebra.options import adjustable
from vertebra.tasks.base import Size
from vertebra.tasks.detector import RECIPE, input_size
from vertebra.tasks.detector_sources import BACKBONES, PREPROCESS, dense_options, detector_rules, number_levels
from vertebra.tasks.points_detector import PointsConfig, PointsDetector
from vertebra.tasks.sources import Source, Tensors


@dataclass(frozen=True)
class Config(PointsConfig):
    """The detector and its training loss. Defaults are those of the paper."""

    nms_threshold: float = adjustable(0.6)
    """IoU threshold of non-maximum suppression within each class."""
    conversion: Literal["moment", "partial_minmax", "minmax", "corners"] = "corners"
    """Box of a set of points: by their mean and standard deviation; around the first four; around all; or with the
    first two as its corners."""


class RepPointsV2(PointsDetector):
    """[B, C, H, W] -> boxes of each image, from sets of points and from heatmaps of the boxes' corners.

    Source: arXiv:2007.08508.
    """

    head = RepPointsV2Head
    reads_sizes = True

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Of each of the five levels, logits [B, num_classes, h, w] and boxes [B, 4, h, w] in input pixels, clipped to
        `sizes` and refined by the heatmaps of their corners: ten tensors, level by level."""
        raw = self.dense(self.features(images))
        corners = limits([input_size(images)] if sizes is None else sizes).to(images.device)
        boxes = self.dense.verified_boxes(raw, corners)
        return tuple(x for (logits, *_), box in zip(raw, boxes, strict=True) for x in (logits, box))


def _options(tensors: Tensors) -> dict[str, Any]:
    # Norms are counted in the towers: the features of corners have some in any case.
    options = dense_options(tensors) | {"head_norm": tensors.norm("dense.cls_tower.")}
    return options | {"conversion": "moment" if tensors.has("dense.moment") else "corners"}


MODEL = RepPointsV2
SOURCES = {
    "mmdet": Source(
        marks=(r"^bbox_head\.reppoints_hem_tl_score_out\.",),
        backbone=BACKBONES["mmdet"],
        rules=detector_rules("mmdet", RepPointsV2Head),
        finish=number_levels,
        preset={"min_box_size": 1e-6, "extra_levels.relu": False, "box_loss.beta": 0.11},
        options=_options,
        num_classes=lambda tensors: tensors.width("dense.classify.bias"),
        preprocess=PREPROCESS["mmdet"],
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "RepPointsV2"]
