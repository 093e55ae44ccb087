"""Cascade Mask R-CNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vertebra.errors import VertebraError
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

__all__ = ["MODEL", "RECIPE", "SOURCES", "CascadeMaskRCNN", "Config"]
