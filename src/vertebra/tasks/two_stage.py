"""Detectors that first propose regions, then say what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vertebra.backbones import Backbone
from vertebra.backbones.residual import Bottleneck
from vertebra.errors import VertebraError, in_range
from vertebra.heads.box import BoxHead
from vertebra.heads.cascade import SCALES, Cascade
from vertebra.heads.regions import Detections, LinearTrunk, Mean, Samples, draw
from vertebra.heads.rpn import RPN
from vertebra.necks import Coarser, OneMap
from vertebra.nn.norm import renorm
from vertebra.ops.roi import pool_regions
from vertebra.structures import Level, Preprocess, Target
from vertebra.tasks.region import RegionConfig, RegionTask, Size


@dataclass(frozen=True)
class TwoStageConfig(RegionConfig):
    """Options of detectors that first propose regions."""

    proposals_train: int = 2000
    """Most regions of a picture that the proposal network gives in training."""
    proposals_test: int | None = None
    """The same in use; 1000 if not given, and 300 on a single map (C4)."""
    candidates_train: int | None = None
    """Likeliest answers of each level that go on to non-maximum suppression in training; 2000 if not given, and 12000
    on a single map (C4)."""
    rpn_convs: int = 1
    """Convolutions before the proposal network's answers."""
    rpn_nms: float = 0.7
    """Of two proposals that overlap by more (IoU), the less probable is left out."""
    rpn_batch: int = 256
    """Anchors of a picture that the proposal network learns from."""
    rpn_nearest: float = 0.0
    """Least IoU by which an object's nearest anchors are its own though they overlap by less than 0.7."""
    rpn_inside: bool = False
    """Whether the proposal network learns only from anchors that lie inside the picture, as the first did."""
    rpn_beta: float = 1 / 9
    """Where the smooth L1 loss of proposals turns from square to straight; 0 is L1."""
    region_batch: int | None = None
    """Proposals of a picture that the heads learn from; 512 if not given, and 64 on a single map (C4)."""
    region_positive: float = 0.25
    """Largest share of objects among them."""
    box_loss: Literal["smooth_l1", "giou", "diou", "ciou"] = "smooth_l1"
    """Of boxes: smooth L1 of their deltas, or one less their overlap (generalised, distance or complete IoU)."""
    box_beta: float = 1 / 9
    """Where the smooth L1 loss of boxes turns from square to straight; 0 is L1. The papers have 1, torchvision 1/9."""
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """Two linear layers, or four convolutions and one; the C4 forms have the backbone's last stage instead."""
    box_width: int = 1024
    """Width of those linear layers."""
    cascade_mean: Literal["probabilities", "logits"] = "probabilities"
    """What a cascade averages over its stages; MMDetection's checkpoints want `logits`."""
    cascade_scales: tuple[tuple[float, ...], ...] = SCALES
    """One over the usual deviation of the deltas dx, dy, dw, dh, of each stage of a cascade."""
    roi_sampling: int = 2
    """Points per cell and axis in RoIAlign; 0 takes as many as there are feature cells."""
    roi_aligned: bool = True
    """Whether RoIAlign samples the middle of cells; torchvision's checkpoints want False."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("proposals_train", "proposals_test", "candidates_train", "rpn_batch", "region_batch", "box_width"):
            in_range(name, getattr(self, name), 1)
        for name in ("rpn_nms", "rpn_nearest", "region_positive"):
            in_range(name, getattr(self, name), 0, 1)
        if [len(stage) for stage in self.cascade_scales] != [4] * 3 or min(map(min, self.cascade_scales)) <= 0:
            raise VertebraError(
                f"cascade_scales is {self.cascade_scales}; four numbers above 0 for each of three stages are expected."
            )
        for name in ("rpn_convs", "rpn_beta", "box_beta", "roi_sampling"):
            in_range(name, getattr(self, name), 0)


class TwoStage(RegionTask):
    """A backbone, a pyramid (or one map: the C4 forms), and proposals of where objects are.

    Methods whose name ends in `_c4` run the backbone's last stage on every region. Families that cannot spare a stage
    join their maps into one, and have three bottleneck blocks for the regions.
    """

    def __init__(
        self, config: Any, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        scale = config.anchor_scale
        self.one: OneMap | None = None
        self.region_levels: tuple[Level, ...]
        if config.method.endswith("_c4"):
            outputs = self.backbone.levels[-1].channels
            self.stage = self.backbone.cut()
            if self.stage is None:
                outputs = 8 * config.channels
                self.one = OneMap(self.backbone.levels, 4 * config.channels)
                kind = self.backbone_norm  # nothing has been counted yet that could be frozen
                self.stage = renorm(_stage(self.one.levels[0].channels, outputs), "batch" if kind == "frozen" else kind)
            else:
                self.cut = f"stages.{len(self.backbone.stages)}."  # type: ignore[arg-type]
            level = self.backbone.levels[-1] if self.one is None else self.one.levels[0]
            self.region_levels, self.region_channels = (level,), outputs
            self.rpn = RPN([level], [[scale * level.stride / 4 * 2**i for i in range(5)]], config)
        else:
            self.neck = self.make_neck(self.backbone.levels)
            self.region_levels = self.neck.levels[:4]
            self.region_channels = config.channels
            self.coarser = Coarser(self.neck.levels, 5 - len(self.neck.levels))
            self.rpn = RPN(self.coarser.levels, [[scale * level.stride] for level in self.coarser.levels], config)
        cascade = config.method.startswith("cascade")
        self.box: BoxHead | Cascade = (
            Cascade([self.trunk() for _ in range(3)], len(classes), config)
            if cascade
            else BoxHead(self.trunk(), len(classes), config)
        )

    def needless(self) -> set[str]:
        config = self.config
        without = {"extra_levels", "extra_relu", "clip_late", "loss_per_picture"}  # RetinaNet's
        if not config.method.startswith("cascade"):
            without |= {"cascade_mean", "cascade_scales", "mask_stages"}
        if config.method.endswith("_c4"):
            without |= {"box_head", "box_width", "neck", "neck_norm", "head_norm"}
        return without

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that proposals are made of; regions are read from as many of them as `region_levels` has."""
        maps = self.backbone(images)
        if self.stage is None:
            return self.coarser(self.neck(maps))
        return [maps[-1] if self.one is None else self.one(maps)]

    def regions(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """Features of boxes [N_i, 4] of each picture: [sum of N_i, C, size, size]; the C4 forms' are always 7 x 7."""
        strides = [level.stride for level in self.region_levels]
        options = {"sampling": self.config.roi_sampling, "aligned": self.config.roi_aligned}
        if self.stage is None:
            return pool_regions(maps[: len(strides)], strides, boxes, size, **options)
        x: Tensor = self.stage(pool_regions(maps, strides, boxes, 14, **options))
        return x

    def trunk(self) -> nn.Module:
        """What reads a region's features for the box head."""
        config = self.config
        if self.stage is not None:
            return Mean(self.region_channels)
        convs, linears = (4, 1) if config.box_head == "4conv1fc" else (0, 2)
        norm = config.head_norm != "none"
        return LinearTrunk(self.region_channels, 7, config.box_width, convs=convs, linears=linears, norm=norm)

    def find(self, maps: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]) -> list[Detections]:
        """What the box head, or the cascade of them, makes of the proposals [N_i, 4] of each picture."""
        if isinstance(self.box, Cascade):
            return self.box(lambda boxes: self.regions(maps, boxes, 7), proposals, sizes)
        logits, deltas = self.box(self.regions(maps, proposals, 7))
        return self.box.detect(logits.float().softmax(1), deltas, proposals, sizes)

    def learn(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], sizes: Sequence[Size]
    ) -> tuple[list[list[Samples]], dict[str, Tensor]]:
        """The regions drawn for each stage (one, but in a cascade), and the terms of the loss."""
        if isinstance(self.box, Cascade):
            return self.box.loss(lambda boxes: self.regions(maps, boxes, 7), proposals, targets, sizes)
        count = self.config.region_batch or (512 if self.stage is None else 64)
        samples = draw(
            proposals, targets, len(self.classes), iou=0.5, count=count, positive=self.config.region_positive
        )
        logits, deltas = self.box(self.regions(maps, [each.boxes for each in samples], 7))
        return [samples], self.box.loss(logits, deltas, samples)

    def differing(self, source: str) -> Mapping[str, Any]:
        known = dict(super().differing(source))
        if source in ("detectron2", "mmdet") and self.stage is not None:
            known |= {"proposals_train": 2000, "proposals_test": 1000, "region_batch": 512}
        if source == "detectron2" and isinstance(self.box, Cascade):
            known |= {"proposals_train": 2000}
        if source == "mmdet" and isinstance(self.box, Cascade):
            # Its configs round the deviations: 0.033 and 0.067.
            last = (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)
            known |= {"proposals_train": 2000, "rpn_inside": True}
            known |= {
                "cascade_mean": "logits",
                "cascade_scales": (*SCALES[:2], last),
                "rpn_beta": 1 / 9,
                "box_beta": 1.0,
            }
        return known


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Three bottleneck blocks, as ResNet-50's last stage: [R, inputs, h, w] -> [R, outputs, h / 2, w / 2]."""
    width = outputs // 4
    return nn.Sequential(Bottleneck(inputs, width, 2), Bottleneck(outputs, width), Bottleneck(outputs, width))
