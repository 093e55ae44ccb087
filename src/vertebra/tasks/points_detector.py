"""What RepPoints and RepPoints v2 share: their options, and detections from sets of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vertebra.errors import check_choices
from vertebra.heads.box import BoxLoss
from vertebra.heads.dense import DenseLevel
from vertebra.heads.reppoints import RepPointsHead, box_levels
from vertebra.structures import Level
from vertebra.tasks.dense_detector import DenseConfig, DenseDetector, ExtraLevelOptions
from vertebra.tasks.detector import NeckOptions


@dataclass(frozen=True)
class PointsConfig(DenseConfig):
    """Options of detectors that predict sets of points."""

    neck: NeckOptions = NeckOptions(norm="group")
    """The feature pyramid."""
    extra_levels: ExtraLevelOptions = ExtraLevelOptions(norm=True)
    """The two coarsest levels."""
    head_norm: Literal["none", "batch", "sync", "group"] = "group"
    """Norm after the convolutions of the heads."""
    conversion: Literal["moment", "partial_minmax", "minmax", "corners"] = "moment"
    """Box of a set of points: by their mean and standard deviation; around the first four; around all; or with the
    first two as its corners, as RepPoints v2 has it."""
    box_loss: BoxLoss = BoxLoss()
    """Loss of box regression, of boxes from the initial and from the refined points; the best of RepPoints v2's authors
    is `giou`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)


class PointsDetector(DenseDetector):
    """A detector by sets of points: [B, C, H, W] -> boxes of each image.

    A method sets `head` and writes `forward`, which returns of each level logits [B, num_classes, h, w] and boxes
    [B, 4, h, w] in input pixels.
    """

    head: ClassVar[type[RepPointsHead]]

    def make_head(self, levels: Sequence[Level], num_classes: int) -> RepPointsHead:
        config = self.config
        return self.head(
            levels,
            num_classes,
            conversion=config.conversion,
            box_loss=config.box_loss,
            norm=config.head_norm != "none",
        )

    def dense_levels(self, raw: tuple[Tensor, ...], index: int) -> list[DenseLevel]:
        return box_levels(raw, index)
