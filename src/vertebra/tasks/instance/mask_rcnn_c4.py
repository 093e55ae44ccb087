"""Mask R-CNN over a single map (C4)."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks import zoo
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import C4_SOURCES, with_options
from vertebra.tasks.instance.masks import MASK_PRESETS, WithMaskOptions, WithMasks, mask_options
from vertebra.tasks.two_stage import C4Config, C4Form


@dataclass(frozen=True)
class Config(WithMaskOptions, C4Config):
    """The detector and its training loss. Defaults are those of the papers."""


class MaskRCNNC4(WithMasks, C4Form):
    """[B, C, H, W] -> boxes of each image, each with a mask, from one map of stride 16.

    Source: arXiv:1703.06870, section 3 and figure 4, left.
    """

    def add_heads(self) -> None:
        self.mask = self.make_mask_head(self.config.channels, num_convs=0)


MODEL = MaskRCNNC4
SOURCES = with_options(C4_SOURCES, mask_options, MASK_PRESETS)

WEIGHTS = {
    **zoo.detectron2(
        "COCO-InstanceSegmentation",
        ("mask_rcnn_R_50_C4_1x", "137259246/model_final_9243eb", "resnet50", 36.8, 32.2),
        ("mask_rcnn_R_50_C4_3x", "137849525/model_final_4ce675", "resnet50", 39.8, 34.4),
        ("mask_rcnn_R_101_C4_3x", "138363239/model_final_a2914c", "resnet101", 42.6, 36.7),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "MaskRCNNC4"]
