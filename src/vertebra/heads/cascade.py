"""Box heads in a row, each trained on what the one before made better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from vertebra.heads.box import BoxHead
from vertebra.heads.regions import Detections, Samples, draw
from vertebra.ops.boxes import decode
from vertebra.structures import Target

IOUS = (0.5, 0.6, 0.7)
SCALES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
WEIGHTS = (1.0, 0.5, 0.25)

Regions = Callable[[Sequence[Tensor]], Tensor]


class Cascade(nn.ModuleList):
    """Three box heads with one set of deltas for all classes; the classes' probabilities are averaged.

    Source: Cascade R-CNN, arXiv:1712.00726, section 4; stages' weights in the loss as its authors published them.
    """

    def __init__(self, trunks: Sequence[Any], classes: int, config: Any) -> None:
        super().__init__(BoxHead(trunk, classes, config, step=i, agnostic=True) for i, trunk in enumerate(trunks))
        self.classes, self.config = classes, config

    @property
    def heads(self) -> list[BoxHead]:
        """One per stage."""
        return list(self)  # type: ignore[arg-type]

    def forward(
        self, regions: Regions, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections in pictures of `sizes`; `regions` gives the features of boxes [N_i, 4] of each picture."""
        boxes, answers = list(proposals), []
        for i, head in enumerate(self.heads):
            logits, deltas = head(regions(boxes))
            answers.append(logits.float())
            if i + 1 < len(self.heads):
                boxes = self._better(head, deltas, boxes, sizes)
        mean = torch.stack(answers)
        of_logits = self.config.cascade_mean == "logits"
        probabilities = mean.mean(0).softmax(1) if of_logits else mean.softmax(2).mean(0)
        return self.heads[-1].detect(probabilities, deltas, boxes, sizes)

    def loss(
        self,
        regions: Regions,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[list[Samples]], dict[str, Tensor]]:
        """The regions that each stage learned from, and the weighted terms `classification1`, `box1`, ..."""
        boxes, drawn = list(proposals), []
        terms: dict[str, Tensor] = {}
        for i, (head, iou, weight) in enumerate(zip(self.heads, IOUS, WEIGHTS, strict=True)):
            config = self.config
            samples = draw(
                boxes, targets, self.classes, iou=iou, count=config.region_batch or 512, positive=config.region_positive
            )
            drawn.append(samples)
            logits, deltas = head(regions([each.boxes for each in samples]))
            found = head.loss(logits, deltas, samples)
            terms |= {f"{name}{i + 1}": weight * value for name, value in found.items()}
            better = self._better(head, deltas.detach(), [each.boxes for each in samples], sizes)
            # The objects' own boxes are drawn anew in every stage: what was made of them would be too easy.
            rest = (each[~own.given] for each, own in zip(better, samples, strict=True))
            boxes = [each[remove_small_boxes(each, 1e-2)] for each in rest]
        return drawn, terms

    @staticmethod
    def _better(head: Any, deltas: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        parts = deltas[:, 0].float().split([len(each) for each in boxes])
        moved = (decode(part, each, head.scales) for part, each in zip(parts, boxes, strict=True))
        return [clip_boxes_to_image(each, size) for each, size in zip(moved, sizes, strict=True)]
