"""Mask R-CNN over a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass

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

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "MaskRCNN"]
