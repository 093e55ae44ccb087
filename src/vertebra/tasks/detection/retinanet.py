"""RetinaNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vertebra.backbones import Backbone
from vertebra.heads.dense import DenseHead
from vertebra.heads.regions import Detections
from vertebra.necks import Coarser
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
        self.first = [level.stride >= 8 for level in self.neck.levels].index(True)  # other pyramids have a finer one
        levels = self.neck.levels[self.first : self.first + 3]
        # The map of a backbone of one scale is finer than the pyramid's coarsest.
        same = self.backbone.levels[-1].stride == levels[-1].stride
        self.from_backbone = config.extra_levels == "backbone" and same
        start = (self.backbone.levels if self.from_backbone else levels)[-1].channels
        self.coarser = Coarser(levels, 2, convolve=start, config=config)
        sides = [
            [config.anchor_scale / 2 * level.stride * 2 ** (i / 3) for i in range(3)] for level in self.coarser.levels
        ]
        self.dense = DenseHead(self.coarser.levels, sides, len(classes), config)
        self.finish()

    def needless(self) -> set[str]:
        used = {"box_loss", "box_beta", *(f.name for f in dataclasses.fields(RegionConfig))}
        return {f.name for f in dataclasses.fields(TwoStageConfig)} - used

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        pyramid = self.neck(maps)[self.first : self.first + 3]
        return self.coarser(pyramid, maps[-1] if self.from_backbone else pyramid[-1])

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Detections]:
        raw = self.dense(self.features(images))
        return self.dense.detect(raw, valid_sizes(images, sizes), extent(images))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_classification + L_box."""
        return self.dense.loss(self.dense(self.features(images)), targets, extent(images))

    def differing(self, source: str) -> Mapping[str, Any]:
        own: dict[str, Mapping[str, Any]] = {
            "torchvision": {"least_side": 0.0, "box_beta": 0.0, "loss_per_picture": True, "detections": 300},
            "detectron2": {"clip_late": True},
            "mmdet": {"least_side": 1e-6, "extra_relu": False},
        }
        if self.config.head_norm != "none":  # torchvision's second version
            own["torchvision"] = {**own["torchvision"], "box_loss": "giou"}
        return {**super().differing(source), **own.get(source, {})}
