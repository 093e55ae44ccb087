"""Faster R-CNN and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vertebra.backbones import Backbone
from vertebra.heads.regions import Detections
from vertebra.structures import Preprocess, Target
from vertebra.tasks.detection.config import Config
from vertebra.tasks.region import Size, extent, valid_sizes
from vertebra.tasks.two_stage import TwoStage


class FasterRCNN(TwoStage):
    """[B, C, H, W] -> the boxes of each picture, from proposals over a pyramid or (C4) over one map.

    Source: arXiv:1506.01497; with a pyramid arXiv:1612.03144, section 4.2; the cascade is arXiv:1712.00726.
    """

    name = "detection"

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, classes, preprocess, backbone)
        self.finish()

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Detections]:
        sizes = valid_sizes(images, sizes)
        maps = self.features(images)
        proposals = self.rpn(maps, sizes, extent(images))
        return self.find(maps, proposals, sizes)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_objectness + L_rpn_box + L_classification + L_box; a cascade has the last two of every stage."""
        sizes = valid_sizes(images, targets)
        maps = self.features(images)
        proposals, terms = self.rpn.loss(maps, targets, extent(images))
        return terms | self.learn(maps, proposals, targets, sizes)[1]
