"""Mask heads on a two-stage detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.heads.cascade import LOSS_WEIGHTS
from vertebra.heads.mask import MaskHead, MaskOptions
from vertebra.heads.roi import Detections, Samples
from vertebra.ops.masks import paste_masks
from vertebra.structures import Prediction, Target
from vertebra.tasks.detector_sources import num_classes
from vertebra.tasks.sources import Tensors
from vertebra.tasks.two_stage import TwoStage, stack_raw


@dataclass(frozen=True)
class WithMaskOptions:
    """Options of the mask head."""

    mask_head: MaskOptions = MaskOptions()
    """Masks of the detections."""


class WithMasks(TwoStage):
    """Adds mask heads to a form of two-stage detector.

    Source: Mask R-CNN, arXiv:1703.06870, section 3.
    """

    kind = "masks"
    monitor = "mask_ap"
    target_fields = (*TwoStage.target_fields, "masks")
    iou_types = ("mask", "box", "boundary")
    mask: nn.Module

    def make_mask_head(self, width: int, num_convs: int = 4, *, norm: bool = False) -> MaskHead:
        """A mask head of `num_convs` convolutions; `width` is used if the options give none."""
        options = self.config.mask_head
        return MaskHead(
            self.roi_channels,
            len(self.classes),
            options,
            width=options.channels or width,
            aligned=self.config.roi_align.aligned,
            num_convs=num_convs,
            norm=norm,
        )

    @property
    def mask_heads(self) -> list[MaskHead]:
        """One, or one per stage of a cascade."""
        return list(self.mask) if isinstance(self.mask, nn.ModuleList) else [self.mask]  # type: ignore[list-item, arg-type]

    def extra_raw(self, maps: Sequence[Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Mask probabilities over the boxes: [B, K, M, M]."""
        x = self.roi_features(maps, [d.boxes for d in detections], 14)
        labels = torch.cat([d.labels for d in detections])
        masks = torch.stack([head.probabilities(head(x), labels) for head in self.mask_heads]).mean(0)
        return [stack_raw(masks, detections, self.config.max_detections)]

    def extra_loss(
        self, maps: Sequence[Tensor], stages: Sequence[Sequence[Samples]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The term `mask`; each head is trained on the positive samples of its stage."""
        heads = self.mask_heads
        total, weights = maps[0].new_zeros(()), LOSS_WEIGHTS if len(heads) > 1 else (1.0,)
        for head, samples, weight in zip(heads, stages[-len(heads) :], weights, strict=True):
            logits = head(self.roi_features(maps, [s.positive for s in samples], 14))
            total = total + weight * head.loss(logits, samples, targets)["mask"]
        return {"mask": total}

    def decode_extra(self, prediction: Prediction, extra: Sequence[Tensor], boxes: Tensor, factor: Tensor) -> None:
        assert prediction.boxes is not None
        assert prediction.size is not None
        rounded = self.config.mask_head.paste_rounded
        prediction.masks = paste_masks(extra[0].cpu(), prediction.boxes, prediction.size, rounded=rounded)


def mask_options(tensors: Tensors) -> dict[str, Any]:
    """Options of the mask head, read off its tensors."""
    agnostic = tensors.width("mask.logits.bias", "mask.0.logits.bias") == 1 and num_classes(tensors) != 1
    return {
        "mask_head.kind": "agnostic" if agnostic else None,
        "mask_head.channels": tensors.width("mask.upsample.bias", "mask.0.upsample.bias"),
    }


MASK_PRESETS: dict[str, dict[str, Any]] = {
    "torchvision": {"mask_head.targets": "soft", "mask_head.paste_rounded": True}
}
"""By library, the options of its mask heads."""
