"""Box heads in sequence, each trained on the boxes that the previous one has refined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import remove_small_boxes

from vertebra.heads.box import BoxHead, BoxLoss
from vertebra.heads.roi import Detections, PostprocessConfig, Samples, Size, sample_rois
from vertebra.ops.boxes import clip, decode
from vertebra.structures import Target

IOUS = (0.5, 0.6, 0.7)
STAGE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)

RoIFeatures = Callable[[Sequence[Tensor]], Tensor]


class Cascade(nn.ModuleList):
    """Three box heads with class-agnostic deltas; the class scores are averaged over the stages.

    Source: Cascade R-CNN, arXiv:1712.00726, section 4; loss weights of the stages as its authors published them.
    """

    def __init__(
        self,
        trunks: Sequence[Any],
        num_classes: int,
        *,
        loss: BoxLoss,
        postprocess: PostprocessConfig,
        stage_weights: Sequence[Sequence[float]] = STAGE_WEIGHTS,
        average: str = "probabilities",
    ) -> None:
        """`average` says what is averaged: `probabilities` or `logits`."""
        super().__init__(
            BoxHead(trunk, num_classes, loss=loss, postprocess=postprocess, weights=weights, class_agnostic=True)
            for trunk, weights in zip(trunks, stage_weights, strict=True)
        )
        self.num_classes, self.average = num_classes, average

    @property
    def heads(self) -> list[BoxHead]:
        """One per stage."""
        return list(self)  # type: ignore[arg-type]

    def forward(
        self, roi_features: RoIFeatures, proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Detections]:
        """Detections in images of (height, width) `sizes`; `roi_features` pools boxes [N_i, 4] of each image."""
        boxes, stages = list(proposals), []
        for i, head in enumerate(self.heads):
            logits, deltas = head(roi_features(boxes))
            stages.append(logits.float())
            if i + 1 < len(self.heads):
                boxes = self._refine(head, deltas, boxes, sizes)
        return self.heads[-1].detect(self._averaged(torch.stack(stages)), deltas, boxes, sizes)

    def loss(
        self,
        roi_features: RoIFeatures,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[Size],
        *,
        batch_size: int,
        positive_fraction: float,
    ) -> tuple[list[list[Samples]], dict[str, Tensor], list[Tensor]]:
        """The samples of each stage, the weighted terms `classification1`, `box1`, ..., and the class logits of the
        samples of each stage."""
        boxes, stages, stage_logits = list(proposals), [], []
        terms: dict[str, Tensor] = {}
        for i, (head, iou, weight) in enumerate(zip(self.heads, IOUS, LOSS_WEIGHTS, strict=True)):
            samples = sample_rois(
                boxes, targets, self.num_classes, iou=iou, batch_size=batch_size, positive_fraction=positive_fraction
            )
            stages.append(samples)
            logits, deltas = head(roi_features([s.boxes for s in samples]))
            stage_logits.append(logits)
            losses = head.loss(logits, deltas, samples)
            terms |= {f"{name}{i + 1}": weight * value for name, value in losses.items()}
            refined = self._refine(head, deltas.detach(), [s.boxes for s in samples], sizes)
            # Ground-truth boxes are sampled anew in every stage: refined ones would be too easy.
            proposed = (box[~s.is_gt] for box, s in zip(refined, samples, strict=True))
            boxes = [box[remove_small_boxes(box, 1e-2)] for box in proposed]
        return stages, terms, stage_logits

    def class_logits(self, features: Tensor) -> Tensor:
        """Of all stages together for RoI features [R, C, h, w]: [R, num_classes + 1]."""
        return self._averaged(torch.stack([head(features)[0].float() for head in self.heads])).log()

    def _averaged(self, logits: Tensor) -> Tensor:
        """Probabilities [R, num_classes + 1] from the logits of each stage, [stages, R, num_classes + 1]."""
        return logits.mean(0).softmax(1) if self.average == "logits" else logits.softmax(2).mean(0)

    @staticmethod
    def _refine(head: Any, deltas: Tensor, boxes: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        parts = deltas[:, 0].float().split([len(box) for box in boxes])
        refined = (decode(part, box, head.weights) for part, box in zip(parts, boxes, strict=True))
        return [clip(box, size) for box, size in zip(refined, sizes, strict=True)]
