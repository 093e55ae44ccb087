"""Sparse R-CNN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from vertebra.backbones import Backbone
from vertebra.errors import in_range
from vertebra.heads.dynamic import ROI_SIZE, SCALE_CLAMP, DynamicHead, StagePrediction
from vertebra.heads.roi import DetectionsConfig, RoIAlign
from vertebra.ops.boxes import limits
from vertebra.options import adjustable
from vertebra.structures import Frame, Prediction, Preprocess, Target
from vertebra.tasks import zoo
from vertebra.tasks.base import Size
from vertebra.tasks.detector import Detector, NeckOptions, target_sizes, to_prediction
from vertebra.tasks.detector_sources import BACKBONES, PREPROCESS, detector_rules, number_levels, pyramid_options
from vertebra.tasks.sources import Source, Tensors
from vertebra.tasks.trunk import TrunkConfig


@dataclass(frozen=True)
class Config(TrunkConfig, DetectionsConfig):
    """The detector and its training loss. Defaults are those of the paper."""

    neck: NeckOptions = NeckOptions()
    """The feature pyramid."""
    score_threshold: float = adjustable(0.0)
    """Detections with a lower score are removed."""
    num_proposals: int = 100
    """Learned proposals, at least as many as an image has objects; the paper also has 300."""
    num_stages: int = 6
    """Stages that refine the proposals."""
    feedforward_channels: int = 2048
    """Channels inside the feed-forward network of a stage."""
    dynamic_channels: int = 64
    """Channels inside the dynamic convolution of a stage."""
    scale_clamp: float = SCALE_CLAMP
    """Largest absolute logarithm of the factor by which a stage scales the sides of a box."""
    roi_align: RoIAlign = RoIAlign()
    """RoIAlign."""

    def __post_init__(self) -> None:
        TrunkConfig.__post_init__(self)
        DetectionsConfig.__post_init__(self)
        in_range("num_proposals", self.num_proposals, 1, 100_000)
        in_range("num_stages", self.num_stages, 1, 100)
        in_range("feedforward_channels", self.feedforward_channels, 1, 65_536)
        in_range("dynamic_channels", self.dynamic_channels, 1, 65_536)
        in_range("scale_clamp", self.scale_clamp, 0, 100)


class SparseRCNN(Detector):
    """[B, C, H, W] -> boxes of each image, from learned proposals, without anchors and without non-maximum suppression.

    Source: arXiv:2011.12450.
    """

    reads_sizes = True

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.neck = self.make_neck(self.backbone.levels, num_levels=4)
        self.dynamic = DynamicHead(
            config.neck.channels,
            len(classes),
            num_proposals=config.num_proposals,
            num_stages=config.num_stages,
            feedforward=config.feedforward_channels,
            hidden=config.dynamic_channels,
            scale_clamp=config.scale_clamp,
        )
        self.replace_norms()

    def stages(self, maps: Sequence[Tensor], scale: Tensor) -> list[StagePrediction]:
        """The predictions of every stage from the maps of the pyramid; `scale` as for `DynamicHead`."""
        pool = self.config.roi_align.pool
        predictions: list[StagePrediction] = self.dynamic(
            lambda boxes: pool(maps, self.neck.levels, boxes, ROI_SIZE), scale
        )
        return predictions

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Logits [B, N, num_classes] and boxes [B, N, 4] in input pixels, not clipped, of the last stage; N =
        num_proposals."""
        scale = _scale(self.image_sizes(images, sizes), images.device)
        return self.stages(self.neck(self.backbone(images)), scale)[-1]

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = sum over the stages of L_classification + L_box + L_giou."""
        scale = _scale(target_sizes(images, targets), images.device)
        maps = self.neck(self.backbone(images))
        terms = self.dynamic.loss(self.stages(maps, scale), targets, scale)
        # Levels that no RoI is pooled from get a gradient of 0 instead of none.
        terms["box1"] = terms["box1"] + sum(0 * x[0, 0, 0, 0] for x in maps)
        return terms

    def candidates(self, raw: tuple[Tensor, ...], index: int, label: int) -> tuple[Tensor, Tensor]:
        logits, boxes = raw
        return boxes[index], logits[index, :, label].sigmoid()

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        predictions = []
        for logits, boxes, frame in zip(*raw, frames, strict=True):
            num_classes = logits.shape[1]
            scores = logits.float().sigmoid().flatten()
            scores, index = scores.topk(min(self.config.max_detections, len(scores)))
            boxes = clip_boxes_to_image(boxes[index // num_classes].float(), frame.resized)
            large = remove_small_boxes(boxes, self.config.min_box_size)
            kept = large[scores[large] > self.config.score_threshold]
            predictions.append(to_prediction(boxes[kept], scores[kept], index[kept] % num_classes, frame)[0])
        return predictions


def _scale(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """[B, 4] width, height, width, height of images of (height, width) `sizes`."""
    return limits(sizes).to(device)


def _options(tensors: Tensors) -> dict[str, Any]:
    num_proposals = tensors.width("dynamic.proposal_boxes")
    return pyramid_options(tensors) | {
        "num_proposals": num_proposals,
        "max_detections": num_proposals,  # as many as the originals return
        "num_stages": tensors.count(r"dynamic\.stages\.\d+\.classify\.bias"),
        "feedforward_channels": tensors.width("dynamic.stages.0.ffn.0.bias"),
        "dynamic_channels": tensors.width("dynamic.stages.0.convolution.norm1.bias"),
    }


def _source(library: str, mark: str, preset: dict[str, Any], **fields: Any) -> Source:
    return Source(
        marks=(mark,),
        backbone=BACKBONES[library],
        rules=detector_rules(library, DynamicHead),
        finish=number_levels,
        preset=preset,
        options=_options,
        num_classes=lambda tensors: tensors.width("dynamic.stages.0.classify.bias"),
        preprocess=PREPROCESS[library],
        **fields,
    )


MODEL = SparseRCNN
RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2.5e-5,
    "base_batch_size": 16,
    "weight_decay": 1e-4,
    "epochs": 36,
    "warmup": 0.15,
    "clip": 1.0,
    "data.batch_size": 4,
    # In the paper the shorter side is 480 to 800 pixels, and half of the images are cropped first.
    "augment.scales": (0.6, 1.0),
    "augment.crop": 0.5,
}
"""Training settings of the authors, with the library's schedule."""
SOURCES = {
    # The authors' code is built on Detectron2, with RGB images and torchvision's ResNets.
    "detectron2": _source(
        "detectron2", r"^init_proposal_boxes\.", {"min_box_size": 1e-6}, table=lambda _: "detectron2/rgb"
    ),
    "mmdet": _source(
        "mmdet", r"^rpn_head\.init_proposal_bboxes\.", {"min_box_size": 0.0, "scale_clamp": math.log(1000 / 16)}
    ),
}

WEIGHTS = {
    **zoo.mmdet(
        "sparse_rcnn",
        ("sparse_rcnn_r50_fpn_1x", "_20201222_214453-dc79b137", "resnet50", 37.9),
        ("sparse_rcnn_r50_fpn_mstrain_480-800_3x", "_20201218_154234-7bc5c054", "resnet50", 42.8),
        (
            "sparse_rcnn_r50_fpn_300_proposals_crop_mstrain_480-800_3x",
            "_20201223_024605-9fe92701",
            "resnet50",
            45.0,
        ),
        ("sparse_rcnn_r101_fpn_mstrain_480-800_3x", "_20201223_121552-6c46c9d6", "resnet101", 44.2),
        (
            "sparse_rcnn_r101_fpn_300_proposals_crop_mstrain_480-800_3x",
            "_20201223_023452-c23c3564",
            "resnet101",
            46.2,
        ),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "SparseRCNN"]
