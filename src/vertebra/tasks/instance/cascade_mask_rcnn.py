"""Cascade Mask R-CNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vertebra.errors import VertebraError
from vertebra.tasks import zoo
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import CASCADE_SOURCES, with_options
from vertebra.tasks.instance.masks import MASK_PRESETS, WithMaskOptions, WithMasks, mask_options
from vertebra.tasks.sources import Tensors
from vertebra.tasks.two_stage import CascadeConfig, CascadeForm


@dataclass(frozen=True)
class Config(WithMaskOptions, CascadeConfig):
    """The detector and its training loss. Defaults are those of the papers."""

    mask_stages: int = 3
    """Mask heads: 3, one per stage, whose masks are averaged; or 1, after the last stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_stages not in (1, 3):
            raise VertebraError(f"mask_stages is {self.mask_stages}; it must be 1 or 3.")


class CascadeMaskRCNN(WithMasks, CascadeForm):
    """[B, C, H, W] -> boxes of each image from three box heads in sequence, each with a mask.

    Source: arXiv:1906.09756, section 4.3.
    """

    def add_heads(self) -> None:
        norm = self.config.head_norm != "none"
        heads = [self.make_mask_head(self.roi_channels, norm=norm) for _ in range(self.config.mask_stages)]
        self.mask = nn.ModuleList(heads) if len(heads) > 1 else heads[0]


def _options(tensors: Tensors) -> dict[str, Any]:
    return mask_options(tensors) | {"mask_stages": 3 if tensors.has("mask.0.") else 1}


MODEL = CascadeMaskRCNN
SOURCES = with_options(CASCADE_SOURCES, _options, MASK_PRESETS)

WEIGHTS = {
    **zoo.detectron2(
        "Misc",
        ("cascade_mask_rcnn_R_50_FPN_1x", "138602847/model_final_e9d89b", "resnet50", 42.1, 36.4),
        ("cascade_mask_rcnn_R_50_FPN_3x", "144998488/model_final_480dd8", "resnet50", 44.3, 38.5),
    ),
    **zoo.mmdet(
        "cascade_rcnn",
        (
            "cascade_mask_rcnn_r50_caffe_fpn_1x",
            "_bbox_mAP-0.412__segm_mAP-0.36_20200504_174659-5004b251",
            "resnet50",
            41.2,
            36.0,
        ),
        ("cascade_mask_rcnn_r50_fpn_1x", "_20200203-9d4dcb24", "resnet50", 41.2, 35.9),
        (
            "cascade_mask_rcnn_r50_fpn_20e",
            "_bbox_mAP-0.419__segm_mAP-0.365_20200504_174711-4af8e66e",
            "resnet50",
            41.9,
            36.5,
        ),
        ("cascade_mask_rcnn_r50_caffe_fpn_mstrain_3x", "_20210707_002651-6e29b3a6", "resnet50", 44.0, 38.1),
        ("cascade_mask_rcnn_r50_fpn_mstrain_3x", "_20210628_164719-5bdc3824", "resnet50", 44.3, 38.5),
        (
            "cascade_mask_rcnn_r101_caffe_fpn_1x",
            "_bbox_mAP-0.432__segm_mAP-0.376_20200504_174813-5c1e9599",
            "resnet101",
            43.2,
            37.6,
        ),
        ("cascade_mask_rcnn_r101_fpn_1x", "_20200203-befdf6ee", "resnet101", 42.9, 37.3),
        (
            "cascade_mask_rcnn_r101_fpn_20e",
            "_bbox_mAP-0.434__segm_mAP-0.378_20200504_174836-005947da",
            "resnet101",
            43.4,
            37.8,
        ),
        ("cascade_mask_rcnn_r101_caffe_fpn_mstrain_3x", "_20210707_002620-a5bd2389", "resnet101", 45.4, 39.5),
        ("cascade_mask_rcnn_x101_32x4d_fpn_1x", "_20200201-0f411b1f", "resnext101_32x4d", 44.3, 38.3),
        ("cascade_mask_rcnn_x101_32x4d_fpn_20e", "_20200528_083917-ed1f4751", "resnext101_32x4d", 45.0, 39.0),
        ("cascade_mask_rcnn_x101_64x4d_fpn_1x", "_20200203-9a2db89d", "resnext101_64x4d", 45.3, 39.2),
        ("cascade_mask_rcnn_x101_64x4d_fpn_20e", "_20200512_161033-bdb5126a", "resnext101_64x4d", 45.6, 39.5),
    ),
    **zoo.mmdet(
        "hrnet",
        ("cascade_mask_rcnn_hrnetv2p_w18_20e", "_20200210-b543cd2b", "hrnet_w18", 41.6, 36.4),
        ("cascade_mask_rcnn_hrnetv2p_w32_20e", "_20200512_154043-39d9cf7b", "hrnet_w32", 44.3, 38.6),
        ("cascade_mask_rcnn_hrnetv2p_w40_20e", "_20200527_204922-969c4610", "hrnet_w40", 45.1, 39.3),
    ),
    **zoo.mmdet(
        "res2net",
        ("cascade_mask_rcnn_r2_101_fpn_20e", "-8a7b41e1", "res2net101_v1b", 46.4, 40.0),
    ),
    **zoo.mmdet(
        "dcn",
        ("cascade_mask_rcnn_r50_fpn_dconv_c3-c5_1x", "_20200202-42e767a2", "resnet50", 44.4, 38.6),
        ("cascade_mask_rcnn_r101_fpn_dconv_c3-c5_1x", "_20200204-df0c5f10", "resnet101", 45.8, 39.7),
        ("cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x", "-e75f90c8", "resnext101_32x4d", 47.3, 41.1),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "CascadeMaskRCNN", "Config"]
