"""Keypoint R-CNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from vertebra.backbones import Backbone
from vertebra.errors import in_range
from vertebra.heads.keypoint import KeypointHead
from vertebra.heads.regions import Detections
from vertebra.structures import COCO_PERSON, Points, Preprocess, Target
from vertebra.tasks.region import Size, extent, valid_sizes
from vertebra.tasks.two_stage import TwoStage, TwoStageConfig


@dataclass(frozen=True)
class Config(TwoStageConfig):
    """The model, and the loss it is trained with. Where nothing else is said, defaults are those of the papers."""

    method: Literal["keypoint_rcnn"] = "keypoint_rcnn"
    """Keypoints found in regions that are proposed over a pyramid."""
    keypoint_width: int = 512
    """Channels of the keypoint head."""
    keypoint_convs: int = 8
    """Convolutions of the keypoint head."""
    points: Points = field(default=COCO_PERSON)
    """The keypoints: names, skeleton, which change sides in the mirror, and how exactly people place them. Training
    takes them from the data."""

    def __post_init__(self) -> None:
        if isinstance(self.points, dict):  # as it comes from JSON
            object.__setattr__(self, "points", Points.from_dict(self.points))
        super().__post_init__()
        in_range("keypoint_width", self.keypoint_width, 1)
        in_range("keypoint_convs", self.keypoint_convs, 1)


class KeypointRCNN(TwoStage):
    """[B, C, H, W] -> the boxes of each picture, each with its keypoints.

    Source: Mask R-CNN, arXiv:1703.06870, section 5.
    """

    name = "keypoints"
    truth = "keypoints"
    best = "keypoint_ap"
    kinds = ("keypoints", "box")

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, classes, preprocess, backbone)
        count = len(config.points.names)
        width, convs = config.keypoint_width, config.keypoint_convs
        self.keypoint = KeypointHead(self.region_channels, count, width=width, convs=convs)
        self.finish()

    def differing(self, source: str) -> Mapping[str, Any]:
        own = {"detectron2": {"proposals_train": 1500, "box_beta": 0.5}}
        return {**super().differing(source), **own.get(source, {})}

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Detections]:
        sizes = valid_sizes(images, sizes)
        maps = self.features(images)
        proposals = self.rpn(maps, sizes, extent(images))
        found = self.find(maps, proposals, sizes)
        boxes = [each.boxes for each in found]
        heatmaps = self.keypoint(self.regions(maps, boxes, 14))
        for each, own in zip(found, heatmaps.split([len(box) for box in boxes]), strict=True):
            each.heatmaps = own
        return found

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_objectness + L_rpn_box + L_classification + L_box + L_keypoint."""
        sizes = valid_sizes(images, targets)
        maps = self.features(images)
        proposals, terms = self.rpn.loss(maps, targets, extent(images))
        (samples,), found = self.learn(maps, proposals, targets, sizes)
        logits = self.keypoint(self.regions(maps, [each.positive for each in samples], 14))
        return terms | found | self.keypoint.loss(logits, samples, targets)
