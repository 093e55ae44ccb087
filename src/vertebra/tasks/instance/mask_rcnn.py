"""Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vertebra.backbones import Backbone
from vertebra.errors import VertebraError
from vertebra.heads.cascade import WEIGHTS
from vertebra.heads.mask import MaskHead
from vertebra.heads.regions import Detections, Samples
from vertebra.structures import Preprocess, Target
from vertebra.tasks.region import Size, extent, valid_sizes
from vertebra.tasks.two_stage import TwoStage, TwoStageConfig


@dataclass(frozen=True)
class Config(TwoStageConfig):
    """The model, and the loss it is trained with. Where nothing else is said, defaults are those of the papers."""

    method: Literal["mask_rcnn", "mask_rcnn_c4", "cascade_mask_rcnn"] = "mask_rcnn"
    """`mask_rcnn` proposes regions over a pyramid, `mask_rcnn_c4` over one map; `cascade_mask_rcnn` has three box heads
    in a row."""
    masks: Literal["class", "agnostic", "softmax"] = "class"
    """A mask for every class, each pixel by itself; one mask for all classes; or pixels for which classes compete."""
    mask_stages: int = 3
    """Mask heads of a cascade: 3, one with every box head, whose masks are averaged; or 1, behind the last."""
    mask_targets: Literal["binary", "soft"] = "binary"
    """Whether a cell that its object covers in part counts as one or the other, or by its share."""
    rounded_masks: bool = False
    """Whether boxes are rounded to whole pixels before masks are put into them, as torchvision has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_stages not in (1, 3):
            raise VertebraError(f"mask_stages is {self.mask_stages}; it must be 1 or 3.")


class MaskRCNN(TwoStage):
    """[B, C, H, W] -> the boxes of each picture, each with a mask.

    Source: arXiv:1703.06870; the cascade is arXiv:1906.09756, section 4.3.
    """

    name = "instance"
    truth = "masks"
    best = "mask_ap"
    kinds = ("mask", "box", "boundary")

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, classes, preprocess, backbone)
        several = config.method == "cascade_mask_rcnn" and config.mask_stages > 1
        heads = [self.mask_head() for _ in range(config.mask_stages if several else 1)]
        self.mask: nn.Module = nn.ModuleList(heads) if several else heads[0]
        self.finish()

    def mask_head(self) -> MaskHead:
        """Four convolutions on a region's features; none on those of the last stage."""
        convs, norm = 4 if self.stage is None else 0, self.config.head_norm != "none"
        return MaskHead(self.region_channels, len(self.classes), self.config, convs=convs, norm=norm)

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Detections]:
        sizes = valid_sizes(images, sizes)
        maps = self.features(images)
        proposals = self.rpn(maps, sizes, extent(images))
        found = self.find(maps, proposals, sizes)
        x = self.regions(maps, [each.boxes for each in found], 14)
        labels = torch.cat([each.labels for each in found])
        masks = torch.stack([head.probabilities(head(x), labels) for head in self.heads]).mean(0)
        for each, own in zip(found, masks.split([len(each.boxes) for each in found]), strict=True):
            each.masks = own
        return found

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_objectness + L_rpn_box + L_classification + L_box + L_mask; a cascade has the last three of every
        stage."""
        sizes = valid_sizes(images, targets)
        maps = self.features(images)
        proposals, terms = self.rpn.loss(maps, targets, extent(images))
        drawn, found = self.learn(maps, proposals, targets, sizes)
        return terms | found | self.mask_loss(maps, drawn, targets)

    def mask_loss(
        self, maps: Sequence[Tensor], drawn: Sequence[Sequence[Samples]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The term `mask`; each head learns from the regions that the box head of its stage did."""
        total, weights = maps[0].new_zeros(()), WEIGHTS if len(self.heads) > 1 else (1.0,)
        for head, samples, weight in zip(self.heads, drawn[-len(self.heads) :], weights, strict=True):
            logits = head(self.regions(maps, [each.positive for each in samples], 14))
            total = total + weight * head.loss(logits, samples, targets)["mask"]
        return {"mask": total}

    @property
    def heads(self) -> list[MaskHead]:
        return list(self.mask) if isinstance(self.mask, nn.ModuleList) else [self.mask]  # type: ignore[list-item, arg-type]
