"""A mask for every RoI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vertebra.errors import check_choices, in_range
from vertebra.heads.roi import Samples
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.masks import crop_masks
from vertebra.structures import Target
from vertebra.weights import Fix, Rename


@dataclass(frozen=True)
class MaskOptions:
    """Masks of the detections."""

    kind: Literal["class", "agnostic", "softmax"] = "class"
    """One sigmoid mask per class; one sigmoid mask for all classes; or a softmax over the classes in each pixel."""
    channels: int | None = None
    """Width of the convolutions; the pyramid's (256 without a pyramid) if not given."""
    targets: Literal["binary", "soft"] = "binary"
    """Threshold the fraction of a cell that the mask covers, or train on the fraction itself, as torchvision does."""
    paste_rounded: bool = False
    """Round boxes to whole pixels before pasting masks into the image, as torchvision does."""

    def __post_init__(self) -> None:
        check_choices(self)
        in_range("mask_head.channels", self.channels, 1, 65_536)


class MaskHead(nn.Module):
    """RoI features to mask logits of twice their side: [R, C, m, m] -> [R, K, 2 m, 2 m].

    K is the number of classes with kind "class", 1 with "agnostic", and with "softmax" one more than the classes,
    background last.

    Source: Mask R-CNN, arXiv:1703.06870, section 3 and figure 4; the variants are table 2b's and section 4.2's.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            Rename(r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.convs.{int(m[1]) - 1}.conv."),
            Rename(r"^roi_heads\.mask_head\.(\d)\.0\.", r"mask.convs.\1.conv."),
            Rename(r"^roi_heads\.mask_head\.(\d)\.1\.", r"mask.convs.\1.norm."),
            Rename(r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask.upsample."),
            Rename(r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.logits."),
            Fix(r"^mask\.logits\.", lambda x: x[1:], "without the background's"),
        ),
        "mmdet": (
            Rename(r"^roi_head\.mask_head\.(\d\.)?convs\.(\d)\.conv\.", r"mask.\1convs.\2.conv."),
            Rename(r"^roi_head\.mask_head\.(\d\.)?convs\.(\d)\.(?:bn|gn)\.", r"mask.\1convs.\2.norm."),
            Rename(r"^roi_head\.mask_head\.(\d\.)?upsample\.", r"mask.\1upsample."),
            Rename(r"^roi_head\.mask_head\.(\d\.)?conv_logits\.", r"mask.\1logits."),
        ),
        "detectron2": (
            Rename(r"^roi_heads\.mask_head\.mask_fcn(\d)\.norm\.", lambda m: f"mask.convs.{int(m[1]) - 1}.norm."),
            Rename(r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.convs.{int(m[1]) - 1}.conv."),
            Rename(r"^roi_heads\.mask_head\.deconv\.", "mask.upsample."),
            Rename(r"^roi_heads\.mask_head\.predictor\.", "mask.logits."),
        ),
    }

    def __init__(
        self,
        channels: int,
        num_classes: int,
        options: MaskOptions,
        *,
        width: int,
        aligned: bool = True,
        num_convs: int = 4,
        norm: bool = False,
    ) -> None:
        """`aligned` is RoIAlign's: mask targets are pooled as the features are."""
        super().__init__()
        self.num_classes, self.options, self.aligned = num_classes, options, aligned
        inputs = [channels] + [width] * max(0, num_convs - 1)
        self.convs = nn.Sequential(*(ConvNorm(n, width, 3, norm=norm) for n in inputs[:num_convs]))
        self.upsample = nn.ConvTranspose2d(width if num_convs else channels, width, 2, 2)
        outputs = {"class": num_classes, "agnostic": 1, "softmax": num_classes + 1}[options.kind]
        self.logits = nn.Conv2d(width, outputs, 1)
        init.fill([self.upsample, self.logits], init.before_relu)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.upsample(self.convs(x)).relu_())
        return logits

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities of the detections of class `labels` [R]: -> [R, M, M]."""
        rows = torch.arange(len(labels), device=labels.device)
        if self.options.kind == "softmax":
            return logits.float().softmax(1)[rows, labels]
        return logits[rows, labels * (self.options.kind == "class")].float().sigmoid()

    def loss(self, logits: Tensor, samples: Sequence[Samples], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term `mask`, of the logits of the positive samples."""
        logits = logits.float()
        labels = torch.cat([s.labels[: len(s.indices)] for s in samples])
        if not len(labels):
            return {"mask": logits.sum() * 0}
        parts = []
        for s, target in zip(samples, targets, strict=True):
            assert target.masks is not None
            covered = crop_masks(target.masks, s.indices, s.positive, logits.shape[-1], aligned=self.aligned)
            parts.append(covered if self.options.targets == "soft" else (covered >= 0.5).float())
        mask_targets = torch.cat(parts)  # [R, M, M]
        if self.options.kind == "softmax":
            cells = torch.where(mask_targets >= 0.5, labels[:, None, None], self.num_classes)
            return {"mask": cross_entropy(logits, cells)}
        rows = torch.arange(len(labels), device=labels.device)
        selected = logits[rows, labels * (self.options.kind == "class")]
        return {"mask": binary_cross_entropy_with_logits(selected, mask_targets)}
