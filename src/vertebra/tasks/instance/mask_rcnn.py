"""Mask R-CNN over a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import FPN_SOURCES, with_options
from vertebra.tasks.instance.masks import MASK_PRESETS, WithMaskOptions, WithMasks, mask_options
from vertebra.tasks.two_stage import FPNConfig, FPNForm


@dataclass(frozen=True)
class Config(WithMaskOptions, FPNConfig):
    """The detector and its training loss. Defaults are those of the papers."""


class MaskRCNN(WithMasks, FPNForm):
    """[B, C, H, W] -> boxes of each image, each with a mask.

    Source: arXiv:1703.06870.
    """

    def add_heads(self) -> None:
        self.mask = self.make_mask_head(self.roi_channels, norm=self.config.head_norm != "none")


MODEL = MaskRCNN
SOURCES = with_options(FPN_SOURCES, mask_options, MASK_PRESETS)

WEIGHTS = {
    **zoo.torchvision("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"),
    **zoo.detectron2(
        "COCO-InstanceSegmentation",
        ("mask_rcnn_R_50_FPN_1x", "137260431/model_final_a54504", "resnet50", 38.6, 35.2),
        ("mask_rcnn_R_50_FPN_3x", "137849600/model_final_f10217", "resnet50", 41.0, 37.2),
        ("mask_rcnn_R_101_FPN_3x", "138205316/model_final_a3ec72", "resnet101", 42.9, 38.6),
        ("mask_rcnn_X_101_32x8d_FPN_3x", "139653917/model_final_2d9806", "resnext101_32x8d", 44.3, 39.5),
    ),
    **zoo.detectron2(
        "new_baselines",
        ("mask_rcnn_R_50_FPN_100ep_LSJ", "42047764/model_final_bb69de", "resnet50", 44.6, 40.3),
        ("mask_rcnn_R_50_FPN_200ep_LSJ", "42047638/model_final_89a8d3", "resnet50", 46.3, 41.7),
        ("mask_rcnn_R_50_FPN_400ep_LSJ", "42019571/model_final_14d201", "resnet50", 47.4, 42.5),
        ("mask_rcnn_R_101_FPN_100ep_LSJ", "42025812/model_final_4f7b58", "resnet101", 46.4, 41.6),
        ("mask_rcnn_R_101_FPN_200ep_LSJ", "42131867/model_final_0bb7ae", "resnet101", 48.0, 43.1),
        ("mask_rcnn_R_101_FPN_400ep_LSJ", "42073830/model_final_f96b26", "resnet101", 48.9, 43.7),
    ),
    **zoo.detectron2(
        "Misc",
        ("mask_rcnn_R_50_FPN_1x_dconv_c3-c5", "138602867/model_final_65c703", "resnet50", 41.5, 37.5),
        ("mask_rcnn_R_50_FPN_3x_dconv_c3-c5", "144998336/model_final_821d0b", "resnet50", 42.7, 38.5),
        ("mask_rcnn_R_50_FPN_3x_gn", "138602888/model_final_dc5d9e", "resnet50", 42.6, 38.6),
        ("mask_rcnn_R_50_FPN_3x_syncbn", "169527823/model_final_3b3c51", "resnet50", 41.9, 37.8),
    ),
    **zoo.mmdet(
        "mask_rcnn",
        (
            "mask_rcnn_r50_caffe_fpn_1x",
            "_bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859",
            "resnet50",
            38.0,
            34.4,
        ),
        ("mask_rcnn_r50_fpn_1x", "_20200205-d4b0c5d6", "resnet50", 38.2, 34.7),
        ("mask_rcnn_r50_fpn_2x", "_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40", "resnet50", 39.2, 35.4),
        (
            "mask_rcnn_r50_caffe_fpn_mstrain-poly_2x",
            "_bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce",
            "resnet50",
            40.3,
            36.5,
        ),
        (
            "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x",
            "_bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00",
            "resnet50",
            40.8,
            37.0,
        ),
        ("mask_rcnn_r50_fpn_mstrain-poly_3x", "_20210524_201154-21b550bb", "resnet50", 40.9, 37.1),
        ("mask_rcnn_r101_caffe_fpn_1x", "_20200601_095758-805e06c1", "resnet101", 40.4, 36.4),
        ("mask_rcnn_r101_fpn_1x", "_20200204-1efe0ed5", "resnet101", 40.0, 36.1),
        ("mask_rcnn_r101_fpn_2x", "_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7", "resnet101", 40.8, 36.6),
        ("mask_rcnn_r101_fpn_mstrain-poly_3x", "_20210524_200244-5675c317", "resnet101", 42.7, 38.5),
        ("mask_rcnn_r101_caffe_fpn_mstrain-poly_3x", "_20210526_132339-3c33ce02", "resnet101", 42.9, 38.5),
        ("mask_rcnn_x101_32x4d_fpn_1x", "_20200205-478d0b67", "resnext101_32x4d", 41.9, 37.5),
        (
            "mask_rcnn_x101_32x4d_fpn_2x",
            "_bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c",
            "resnext101_32x4d",
            42.2,
            37.8,
        ),
        ("mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x", "_20210524_201410-abcd7859", "resnext101_32x4d", 43.6, 39.0),
        ("mask_rcnn_x101_64x4d_fpn_1x", "_20200201-9352eb0d", "resnext101_64x4d", 42.8, 38.4),
        ("mask_rcnn_x101_64x4d_fpn_2x", "_20200509_224208-39d6f70c", "resnext101_64x4d", 42.7, 38.1),
        ("mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x", "_20210526_120447-c376f129", "resnext101_64x4d", 44.5, 39.7),
    ),
    **zoo.mmdet(
        "hrnet",
        ("mask_rcnn_hrnetv2p_w18_1x", "_20200205-1c3d78ed", "hrnet_w18", 37.7, 34.2),
        ("mask_rcnn_hrnetv2p_w18_2x", "_20200212-b3c825b1", "hrnet_w18", 39.8, 36.0),
        ("mask_rcnn_hrnetv2p_w32_1x", "_20200207-b29f616e", "hrnet_w32", 41.2, 37.1),
        ("mask_rcnn_hrnetv2p_w32_2x", "_20200213-45b75b4d", "hrnet_w32", 42.5, 37.8),
        ("mask_rcnn_hrnetv2p_w40_1x", "_20200511_015646-66738b35", "hrnet_w40", 42.1, 37.5),
        ("mask_rcnn_hrnetv2p_w40_2x", "_20200512_163732-aed5e4ab", "hrnet_w40", 42.8, 38.2),
    ),
    **zoo.mmdet(
        "res2net",
        ("mask_rcnn_r2_101_fpn_2x", "-17f061e8", "res2net101_v1b", 43.6, 38.7),
    ),
    **zoo.mmdet(
        "dcn",
        ("mask_rcnn_r50_fpn_dconv_c3-c5_1x", "_20200203-4d9ad43b", "resnet50", 41.8, 37.4),
        ("mask_rcnn_r50_fpn_mdconv_c3-c5_1x", "_20200203-ad97591f", "resnet50", 41.5, 37.1),
        ("mask_rcnn_r101_fpn_dconv_c3-c5_1x", "_20200216-a71f5bce", "resnet101", 43.5, 38.9),
    ),
    **zoo.mmdet(
        "fp16",
        ("mask_rcnn_r50_fpn_fp16_dconv_c3-c5_1x", "_20210520_180247-c06429d2", "resnet50", 41.9, 37.5),
        ("mask_rcnn_r50_fpn_fp16_mdconv_c3-c5_1x", "_20210520_180434-cf8fefa5", "resnet50", 42.0, 37.6),
    ),
    **zoo.mmdet(
        "swin",
        ("mask_rcnn_swin-t-p4-w7_fpn_1x", "_20210902_120937-9d6b7cfa", "swin_tiny", 42.7, 39.3),
        ("mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x", "_20210906_131725-bacf6f7b", "swin_tiny", 46.0, 41.6),
        ("mask_rcnn_swin-t-p4-w7_fpn_fp16_ms-crop-3x", "_20210908_165006-90a4008c", "swin_tiny", 46.0, 41.7),
        ("mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x", "_20210903_104808-b92c91f1", "swin_small", 48.2, 43.2),
    ),
    **zoo.swin(
        ("mask_rcnn_swin_tiny_1x", "v1.0.3/mask_rcnn_swin_tiny_patch4_window7_1x", "swin_tiny", 43.7, 39.8),
        ("mask_rcnn_swin_tiny_3x", "v1.0.2/mask_rcnn_swin_tiny_patch4_window7", "swin_tiny", 46.0, 41.6),
        ("mask_rcnn_swin_small_3x", "v1.0.2/mask_rcnn_swin_small_patch4_window7", "swin_small", 48.5, 43.3),
        ("moby_mask_rcnn_swin_tiny_1x", "v1.0.3/moby_mask_rcnn_swin_tiny_patch4_window7_1x", "swin_tiny", 43.6, 39.6),
        ("moby_mask_rcnn_swin_tiny_3x", "v1.0.3/moby_mask_rcnn_swin_tiny_patch4_window7_3x", "swin_tiny", 46.0, 41.7),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "MaskRCNN"]
