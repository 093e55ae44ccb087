"""Cascade R-CNN."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import CASCADE_SOURCES
from vertebra.tasks.two_stage import CascadeConfig, CascadeForm


@dataclass(frozen=True)
class Config(CascadeConfig):
    """The detector and its training loss. Defaults are those of the papers."""


class CascadeRCNN(CascadeForm):
    """[B, C, H, W] -> boxes of each image, from three box heads in sequence.

    Source: arXiv:1712.00726.
    """


MODEL = CascadeRCNN
SOURCES = CASCADE_SOURCES

WEIGHTS = {
    **zoo.mmdet(
        "cascade_rcnn",
        ("cascade_rcnn_r50_caffe_fpn_1x", "_bbox_mAP-0.404_20200504_174853-b857be87", "resnet50", 40.4),
        ("cascade_rcnn_r50_fpn_1x", "_20200316-3dc56deb", "resnet50", 40.3),
        ("cascade_rcnn_r50_fpn_20e", "_bbox_mAP-0.41_20200504_175131-e9872a90", "resnet50", 41.0),
        ("cascade_rcnn_r101_caffe_fpn_1x", "_bbox_mAP-0.423_20200504_175649-cab8dbd5", "resnet101", 42.3),
        ("cascade_rcnn_r101_fpn_1x", "_20200317-0b6a2fbf", "resnet101", 42.0),
        ("cascade_rcnn_r101_fpn_20e", "_bbox_mAP-0.425_20200504_231812-5057dcc5", "resnet101", 42.5),
        ("cascade_rcnn_x101_32x4d_fpn_1x", "_20200316-95c2deb6", "resnext101_32x4d", 43.7),
        ("cascade_rcnn_x101_32x4d_fpn_20e", "_20200906_134608-9ae0a720", "resnext101_32x4d", 43.7),
        ("cascade_rcnn_x101_64x4d_fpn_1x", "_20200515_075702-43ce6a30", "resnext101_64x4d", 44.7),
        ("cascade_rcnn_x101_64x4d_fpn_20e", "_20200509_224357-051557b1", "resnext101_64x4d", 44.5),
    ),
    **zoo.mmdet(
        "hrnet",
        ("cascade_rcnn_hrnetv2p_w18_20e", "_20200210-434be9d7", "hrnet_w18", 41.2),
        ("cascade_rcnn_hrnetv2p_w32_20e", "_20200208-928455a4", "hrnet_w32", 43.3),
        ("cascade_rcnn_hrnetv2p_w40_20e", "_20200512_161112-75e47b04", "hrnet_w40", 43.8),
    ),
    **zoo.mmdet(
        "res2net",
        ("cascade_rcnn_r2_101_fpn_20e", "-f4b7b7db", "res2net101_v1b", 45.7),
    ),
    **zoo.mmdet(
        "dcn",
        ("cascade_rcnn_r50_fpn_dconv_c3-c5_1x", "_20200130-2f1fca44", "resnet50", 43.8),
        ("cascade_rcnn_r101_fpn_dconv_c3-c5_1x", "_20200203-3b2f0594", "resnet101", 45.0),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "CascadeRCNN", "Config"]
