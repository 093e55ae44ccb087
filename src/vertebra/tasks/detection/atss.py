"""ATSS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from vertebra.errors import in_range
from vertebra.heads.anchors import Anchors
from vertebra.heads.atss import ATSSHead
from vertebra.heads.box import WEIGHTS as BOX_WEIGHTS
from vertebra.heads.dense import DenseLevel, decoded
from vertebra.options import adjustable
from vertebra.structures import Level
from vertebra.tasks import zoo
from vertebra.tasks.base import Size
from vertebra.tasks.dense_detector import DenseConfig, DenseDetector, ExtraLevelOptions
from vertebra.tasks.detector import RECIPE, input_size
from vertebra.tasks.detector_sources import (
    BACKBONES,
    PREPROCESS,
    dense_num_classes,
    dense_options,
    detector_rules,
    number_levels,
)
from vertebra.tasks.sources import Source


@dataclass(frozen=True)
class Config(DenseConfig):
    """The detector and its training loss. Defaults are those of the paper."""

    head_norm: Literal["none", "batch", "sync", "group"] = "group"
    """Norm after the convolutions of the heads."""
    nms_threshold: float = adjustable(0.6)
    """IoU threshold of non-maximum suppression within each class."""
    extra_levels: ExtraLevelOptions = ExtraLevelOptions(source="pyramid")
    """The two coarsest levels."""
    anchors: Anchors = Anchors(ratios=(1.0,))
    """Anchors over the pyramid."""
    topk: int = 9
    """Anchors of every level, per anchor of a cell, among which the positives of an object are selected."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("topk", self.topk, 1, 1000)


class ATSS(DenseDetector):
    """[B, C, H, W] -> boxes of each image, from anchors of a pyramid, with adaptive training sample selection.

    Source: arXiv:1912.02424.
    """

    def make_head(self, levels: Sequence[Level], num_classes: int) -> ATSSHead:
        config = self.config
        return ATSSHead(levels, num_classes, anchors=config.anchors, topk=config.topk, norm=config.head_norm != "none")

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Of each of the five levels, logits [B, A num_classes, h, w], deltas [B, 4 A, h, w], centerness logits
        [B, A, h, w] and anchors [h w A, 4] in input pixels: twenty tensors, level by level."""
        raw = self.dense(self.features(images))
        grids = self.dense.grids(raw, input_size(images))
        return tuple(x for maps, grid in zip(raw, grids, strict=True) for x in (*maps, grid))

    def dense_levels(self, raw: tuple[Tensor, ...], index: int) -> list[DenseLevel]:
        return [
            DenseLevel(
                logits[index],
                partial(decoded, deltas[index], grid, weights=BOX_WEIGHTS),
                quality=centerness[index],
                anchors=centerness.shape[1],
            )
            for logits, deltas, centerness, grid in zip(*[iter(raw)] * 4, strict=True)
        ]


MODEL = ATSS
SOURCES = {
    "mmdet": Source(
        marks=(r"^bbox_head\.atss_centerness\.",),
        backbone=BACKBONES["mmdet"],
        rules=detector_rules("mmdet", ATSSHead),
        finish=number_levels,
        preset={"anchors.offset": 0.0, "min_box_size": 1e-6, "extra_levels.relu": False},
        options=dense_options,
        num_classes=dense_num_classes,
        preprocess=PREPROCESS["mmdet"],
    )
}

WEIGHTS = zoo.mmdet(
    "atss",
    ("atss_r50_fpn_1x", "_20200209-985f7bd0", "resnet50", 39.4),
    ("atss_r101_fpn_1x", "atss_r101_fpn_1x_20200825-dfcadd6f", "resnet101", 41.5),
)

__all__ = ["ATSS", "MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config"]
