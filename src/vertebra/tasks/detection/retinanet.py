"""RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vertebra.heads.anchors import Anchors
from vertebra.heads.box import BoxLoss
from vertebra.heads.dense import DenseHead, DenseLevel, decoded
from vertebra.structures import Level
from vertebra.tasks import zoo
from vertebra.tasks.base import Size
from vertebra.tasks.dense_detector import DenseConfig, DenseDetector
from vertebra.tasks.detector import RECIPE, input_size
from vertebra.tasks.detector_sources import (
    BACKBONES,
    PREPROCESS,
    dense_num_classes,
    dense_options,
    detector_rules,
    detectron2_table,
    frozen_norm_options,
    number_levels,
)
from vertebra.tasks.sources import Source, Tensors


@dataclass(frozen=True)
class Config(DenseConfig):
    """The detector and its training loss. Defaults are those of the paper."""

    anchors: Anchors = Anchors(scale=4.0)
    """Anchors over the pyramid; each has three sizes, from `scale` up to the next octave."""
    box_loss: BoxLoss = BoxLoss()
    """Loss of box regression."""
    loss_per_image: bool = False
    """Normalise the loss by each image's own number of positive anchors, as torchvision does."""


class RetinaNet(DenseDetector):
    """[B, C, H, W] -> boxes of each image, from all anchors of a pyramid at once.

    Source: arXiv:1708.02002.
    """

    def make_head(self, levels: Sequence[Level], num_classes: int) -> DenseHead:
        config, scale = self.config, self.config.anchors.scale
        return DenseHead(
            levels,
            [[scale * level.stride * 2 ** (i / 3) for i in range(3)] for level in levels],
            num_classes,
            anchors=config.anchors,
            box_loss=config.box_loss,
            norm=config.head_norm != "none",
            loss_per_image=config.loss_per_image,
        )

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Of each of the five levels, logits [B, A num_classes, h, w], deltas [B, 4 A, h, w] and anchors [h w A, 4] in
        input pixels: fifteen tensors, level by level."""
        raw = self.dense(self.features(images))
        grids = self.dense.grids(raw, input_size(images))
        return tuple(x for (logits, deltas), grid in zip(raw, grids, strict=True) for x in (logits, deltas, grid))

    def dense_levels(self, raw: tuple[Tensor, ...], index: int) -> list[DenseLevel]:
        return [
            DenseLevel(logits[index], partial(decoded, deltas[index], grid), anchors=deltas.shape[1] // 4)
            for logits, deltas, grid in zip(*[iter(raw)] * 3, strict=True)
        ]


def _options(tensors: Tensors) -> dict[str, Any]:
    options = dense_options(tensors) | frozen_norm_options(tensors)
    if tensors.library == "torchvision" and options["head_norm"] != "none":  # its second version
        options["box_loss.name"] = "giou"
    return options


def _source(library: str, mark: str, preset: dict[str, Any]) -> Source:
    return Source(
        marks=(mark,),
        without=(r"centerness|ctrness",),  # the heads of FCOS and ATSS are named alike
        backbone=BACKBONES[library],
        rules=detector_rules(library, DenseHead),
        finish=number_levels,
        preset={"anchors.offset": 0.0, "box_loss.beta": 0.0} | preset,
        options=_options,
        num_classes=dense_num_classes,
        preprocess=PREPROCESS[library],
        table=detectron2_table if library == "detectron2" else lambda _: None,
    )


MODEL = RetinaNet
SOURCES = {
    "torchvision": _source(
        "torchvision",
        r"^head\.classification_head\.",
        {
            "anchors.rounded": True,
            "anchors.inferred_strides": True,
            "min_box_size": 0.0,
            "loss_per_image": True,
            "max_detections": 300,
        },
    ),
    "detectron2": _source("detectron2", r"^head\.cls_subnet\.", {"min_box_size": 1e-6, "clip_after_nms": True}),
    "mmdet": _source("mmdet", r"^bbox_head\.retina_cls\.", {"min_box_size": 1e-6, "extra_levels.relu": False}),
}

WEIGHTS = {
    **zoo.torchvision("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
    **zoo.detectron2(
        "COCO-Detection",
        ("retinanet_R_50_FPN_1x", "190397773/model_final_bfca0b", "resnet50", 37.4),
        ("retinanet_R_50_FPN_3x", "190397829/model_final_5bd44e", "resnet50", 38.7),
        ("retinanet_R_101_FPN_3x", "190397697/model_final_971ab9", "resnet101", 40.4),
    ),
    **zoo.mmdet(
        "retinanet",
        ("retinanet_r50_caffe_fpn_1x", "_20200531-f11027c5", "resnet50", 36.3),
        ("retinanet_r50_fpn_1x", "_20200130-c2398f9e", "resnet50", 36.5),
        ("retinanet_r50_fpn_2x", "_20200131-fdb43119", "resnet50", 37.4),
        ("retinanet_r50_fpn_mstrain_3x", "_20210718_220633-88476508", "resnet50", 39.5),
        ("retinanet_r101_caffe_fpn_1x", "_20200531-b428fa0f", "resnet101", 38.5),
        ("retinanet_r101_caffe_fpn_mstrain_3x", "_20210721_063439-88a8a944", "resnet101", 40.7),
        ("retinanet_r101_fpn_1x", "_20200130-7a93545f", "resnet101", 38.5),
        ("retinanet_r101_fpn_2x", "_20200131-5560aee8", "resnet101", 38.9),
        ("retinanet_r101_fpn_mstrain_3x", "_20210720_214650-7ee888e0", "resnet101", 41.0),
        ("retinanet_x101_32x4d_fpn_1x", "_20200130-5c8b7ec4", "resnext101_32x4d", 39.9),
        ("retinanet_x101_32x4d_fpn_2x", "_20200131-237fc5e1", "resnext101_32x4d", 40.1),
        ("retinanet_x101_64x4d_fpn_1x", "_20200130-366f5af1", "resnext101_64x4d", 41.0),
        ("retinanet_x101_64x4d_fpn_2x", "_20200131-bca068ab", "resnext101_64x4d", 40.8),
        ("retinanet_x101_64x4d_fpn_mstrain_3x", "_20210719_051838-022c2187", "resnext101_64x4d", 41.6),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "RetinaNet"]
