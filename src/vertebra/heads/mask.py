"""A mask for every region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vertebra.heads.regions import Samples
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.masks import crop_masks
from vertebra.structures import Target
from vertebra.weights import Fix, Rename


class MaskHead(nn.Module):
    """Regions' features to mask logits of twice their side: [R, C, m, m] -> [R, K, 2 m, 2 m].

    K is the number of classes with `config.masks` "class", 1 with "agnostic", and one more than the classes, background
    last, with "softmax".

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

    def __init__(self, channels: int, classes: int, config: Any, *, convs: int = 4, norm: bool = False) -> None:
        super().__init__()
        self.classes, self.config = classes, config
        width = config.channels
        inputs = [channels] + [width] * max(0, convs - 1)
        self.convs = nn.Sequential(*(ConvNorm(n, width, 3, norm=norm) for n in inputs[:convs]))
        self.upsample = nn.ConvTranspose2d(width if convs else channels, width, 2, 2)
        outputs = {"class": classes, "agnostic": 1, "softmax": classes + 1}[config.masks]
        self.logits = nn.Conv2d(width, outputs, 1)
        init.fill([self.upsample, self.logits], init.before_relu)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.upsample(self.convs(x)).relu_())
        return logits

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What each cell's probability is to belong to the object of class `labels` [R]: -> [R, M, M]."""
        rows = torch.arange(len(labels), device=labels.device)
        if self.config.masks == "softmax":
            return logits.float().softmax(1)[rows, labels]
        return logits[rows, labels * (self.config.masks == "class")].float().sigmoid()

    def loss(self, logits: Tensor, samples: Sequence[Samples], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term `mask`, of what `forward` gave for the samples' regions of objects."""
        logits = logits.float()
        labels = torch.cat([each.labels[: len(each.objects)] for each in samples])
        if not len(labels):
            return {"mask": logits.sum() * 0}
        wanted = []
        for each, target in zip(samples, targets, strict=True):
            assert isinstance(target.masks, Tensor)
            aligned, sampled = self.config.roi_aligned, self.config.mask_targets
            found = crop_masks(target.masks, each.objects, each.positive, logits.shape[-1], aligned=aligned)
            wanted.append(found if sampled == "soft" else (found >= 0.5).float())
        truth = torch.cat(wanted)  # [R, M, M]
        if self.config.masks == "softmax":
            cells = torch.where(truth >= 0.5, labels[:, None, None], self.classes)
            return {"mask": cross_entropy(logits, cells)}
        rows = torch.arange(len(labels), device=labels.device)
        chosen = logits[rows, labels * (self.config.masks == "class")]
        return {"mask": binary_cross_entropy_with_logits(chosen, truth)}
