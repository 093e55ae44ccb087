"""Faster R-CNN over a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import FPN_SOURCES
from vertebra.tasks.two_stage import FPNConfig, FPNForm


@dataclass(frozen=True)
class Config(FPNConfig):
    """The detector and its training loss. Defaults are those of the papers."""


class FasterRCNN(FPNForm):
    """[B, C, H, W] -> boxes of each image, from proposals over a feature pyramid.

    Source: arXiv:1506.01497; with a pyramid arXiv:1612.03144, section 4.2.
    """


MODEL = FasterRCNN
SOURCES = FPN_SOURCES

WEIGHTS = {
    **zoo.torchvision("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
    **zoo.detectron2(
        "COCO-Detection",
        ("faster_rcnn_R_50_FPN_1x", "137257794/model_final_b275ba", "resnet50", 37.9),
        ("faster_rcnn_R_50_FPN_3x", "137849458/model_final_280758", "resnet50", 40.2),
        ("faster_rcnn_R_101_FPN_3x", "137851257/model_final_f6e8b1", "resnet101", 42.0),
        ("faster_rcnn_X_101_32x8d_FPN_3x", "139173657/model_final_68b088", "resnext101_32x8d", 43.0),
    ),
    **zoo.mmdet(
        "faster_rcnn",
        ("faster_rcnn_r50_caffe_fpn_1x", "_bbox_mAP-0.378_20200504_180032-c5925ee5", "resnet50", 37.8),
        ("faster_rcnn_r50_fpn_1x", "_20200130-047c8118", "resnet50", 37.4),
        ("faster_rcnn_r50_fpn_2x", "_bbox_mAP-0.384_20200504_210434-a5d8aa15", "resnet50", 38.4),
        ("faster_rcnn_r50_caffe_fpn_mstrain_2x", "_bbox_mAP-0.397_20200504_231813-10b2de58", "resnet50", 39.7),
        ("faster_rcnn_r50_caffe_fpn_mstrain_3x", "_20210526_095054-1f77628b", "resnet50", 39.9),
        ("faster_rcnn_r50_fpn_mstrain_3x", "_20210524_110822-e10bd31c", "resnet50", 40.3),
        ("faster_rcnn_r101_caffe_fpn_1x", "_bbox_mAP-0.398_20200504_180057-b269e9dd", "resnet101", 39.8),
        ("faster_rcnn_r101_fpn_1x", "_20200130-f513f705", "resnet101", 39.4),
        ("faster_rcnn_r101_fpn_2x", "_bbox_mAP-0.398_20200504_210455-1d2dac9c", "resnet101", 39.8),
        ("faster_rcnn_r101_caffe_fpn_mstrain_3x", "_20210526_095742-a7ae426d", "resnet101", 42.0),
        ("faster_rcnn_r101_fpn_mstrain_3x", "_20210524_110822-4d4d2ca8", "resnet101", 41.8),
        ("faster_rcnn_x101_32x4d_fpn_1x", "_20200203-cff10310", "resnext101_32x4d", 41.2),
        ("faster_rcnn_x101_32x4d_fpn_2x", "_bbox_mAP-0.412_20200506_041400-64a12c0b", "resnext101_32x4d", 41.2),
        ("faster_rcnn_x101_32x4d_fpn_mstrain_3x", "_20210524_124151-16b9b260", "resnext101_32x4d", 42.5),
        ("faster_rcnn_x101_64x4d_fpn_1x", "_20200204-833ee192", "resnext101_64x4d", 42.1),
        ("faster_rcnn_x101_64x4d_fpn_2x", "_20200512_161033-5961fa95", "resnext101_64x4d", 41.6),
        ("faster_rcnn_x101_64x4d_fpn_mstrain_3x", "_20210524_124528-26c63de6", "resnext101_64x4d", 43.1),
    ),
    **zoo.mmdet(
        "hrnet",
        ("faster_rcnn_hrnetv2p_w18_1x", "_20200130-56651a6d", "hrnet_w18", 36.9),
        ("faster_rcnn_hrnetv2p_w18_2x", "_20200702_085731-a4ec0611", "hrnet_w18", 38.9),
        ("faster_rcnn_hrnetv2p_w32_1x", "_20200130-6e286425", "hrnet_w32", 40.2),
        ("faster_rcnn_hrnetv2p_w32_2x", "_20200529_015927-976a9c15", "hrnet_w32", 41.4),
        ("faster_rcnn_hrnetv2p_w40_1x", "_20200210-95c1f5ce", "hrnet_w40", 41.2),
        ("faster_rcnn_hrnetv2p_w40_2x", "_20200512_161033-0f236ef4", "hrnet_w40", 42.1),
    ),
    **zoo.mmdet(
        "res2net",
        ("faster_rcnn_r2_101_fpn_2x", "-175f1da6", "res2net101_v1b", 43.0),
    ),
    **zoo.mmdet(
        "dcn",
        ("faster_rcnn_r50_fpn_dconv_c3-c5_1x", "_20200130-d68aed1e", "resnet50", 41.3),
        ("faster_rcnn_r50_fpn_mdconv_c3-c5_1x", "_20200130-d099253b", "resnet50", 41.4),
        ("faster_rcnn_r50_fpn_mdconv_c3-c5_group4_1x", "_20200130-01262257", "resnet50", 41.5),
        ("faster_rcnn_r101_fpn_dconv_c3-c5_1x", "_20200203-1377f13d", "resnet101", 42.7),
        ("faster_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x", "_20200203-4f85c69c", "resnext101_32x4d", 44.5),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "FasterRCNN"]
