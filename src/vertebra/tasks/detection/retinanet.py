"""RetinaNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from vertebra import weights
from vertebra.backbones import Backbone
from vertebra.heads.dense import DenseHead
from vertebra.heads.regions import Detections
from vertebra.necks import FPN, Coarser
from vertebra.structures import Preprocess, Target
from vertebra.tasks.detection.config import Config
from vertebra.tasks.region import RegionConfig, RegionTask, Size, extent, valid_sizes
from vertebra.tasks.two_stage import TwoStageConfig


class RetinaNet(RegionTask):
    """[B, C, H, W] -> the boxes of each picture, from every anchor of a pyramid at once.

    Source: arXiv:1708.02002.
    """

    name = "detection"

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.neck = self.make_neck(self.backbone.levels, (8, 16, 32))
        levels = self.neck.levels[-3:]  # other pyramids have a finer one
        from_backbone = config.extra_levels == "backbone"
        self.coarser = Coarser(levels, 2, convolve=(self.backbone if from_backbone else self.neck).levels[-1].channels)
        sides = [
            [config.anchor_scale / 2 * level.stride * 2 ** (i / 3) for i in range(3)] for level in self.coarser.levels
        ]
        if config.rounded_anchors:
            sides = [[float(int(side)) for side in own] for own in sides]
        self.dense = DenseHead(self.coarser.levels, sides, len(classes), config)
        self.finish()

    def needless(self) -> set[str]:
        used = {"box_beta", *(f.name for f in dataclasses.fields(RegionConfig))}
        return {f.name for f in dataclasses.fields(TwoStageConfig)} - used

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        pyramid = self.neck(maps)[-3:]
        return self.coarser(pyramid, maps[-1] if self.config.extra_levels == "backbone" else pyramid[-1])

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Detections]:
        raw = self.dense(self.features(images))
        return self.dense.detect(raw, valid_sizes(images, sizes), extent(images))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_classification + L_box."""
        return self.dense.loss(self.dense(self.features(images)), targets, extent(images))

    def rules(self, source: str) -> weights.Rules:
        return (*FPN.RULES[source], *DenseHead.RULES[source])
