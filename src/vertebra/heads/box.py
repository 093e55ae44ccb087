"""Classes and better boxes for regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from vertebra.heads.regions import Detections, Samples
from vertebra.nn import init
from vertebra.ops.boxes import decode, regression_loss
from vertebra.weights import Fix, Rename

SCALES = (10.0, 10.0, 5.0, 5.0)
"""One over the usual deviation of a proposal's deltas, so that what is learned has a deviation near 1."""


class BoxHead(nn.Module):
    """Regions' features to logits [R, classes + 1], background last, and deltas [R, classes, 4].

    With `agnostic` the deltas are [R, 1, 4], the same for every class.

    Source: Fast R-CNN, arXiv:1504.08083, section 2.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            Rename(r"^roi_heads\.box_head\.fc([67])\.", lambda m: f"box.trunk.linears.{int(m[1]) - 6}."),
            Rename(r"^roi_heads\.box_head\.([0-3])\.0\.", r"box.trunk.convs.\1.conv."),
            Rename(r"^roi_heads\.box_head\.([0-3])\.1\.", r"box.trunk.convs.\1.norm."),
            Rename(r"^roi_heads\.box_head\.5\.", "box.trunk.linears.0."),
            Rename(r"^roi_heads\.box_predictor\.cls_score\.", "box.classify."),
            Rename(r"^roi_heads\.box_predictor\.bbox_pred\.", "box.deltas."),
            Fix(r"^box\.classify\.", lambda x: x.roll(-1, 0), "background first -> last"),
            Fix(r"^box\.deltas\.", lambda x: x[4:], "without the background's"),
        ),
        "mmdet": (
            Rename(r"^roi_head\.bbox_head\.(\d\.)?shared_fcs\.", r"box.\1trunk.linears."),
            Rename(r"^roi_head\.bbox_head\.(\d\.)?shared_convs\.(\d)\.conv\.", r"box.\1trunk.convs.\2.conv."),
            Rename(r"^roi_head\.bbox_head\.(\d\.)?shared_convs\.(\d)\.(?:bn|gn)\.", r"box.\1trunk.convs.\2.norm."),
            Rename(r"^roi_head\.bbox_head\.(\d\.)?fc_cls\.", r"box.\1classify."),
            Rename(r"^roi_head\.bbox_head\.(\d\.)?fc_reg\.", r"box.\1deltas."),
        ),
        "detectron2": (
            Rename(
                r"^roi_heads\.box_head\.(\d\.)?fc(\d)\.", lambda m: f"box.{m[1] or ''}trunk.linears.{int(m[2]) - 1}."
            ),
            Rename(
                r"^roi_heads\.box_head\.(\d\.)?conv(\d)\.norm\.",
                lambda m: f"box.{m[1] or ''}trunk.convs.{int(m[2]) - 1}.norm.",
            ),
            Rename(
                r"^roi_heads\.box_head\.(\d\.)?conv(\d)\.",
                lambda m: f"box.{m[1] or ''}trunk.convs.{int(m[2]) - 1}.conv.",
            ),
            Rename(r"^roi_heads\.box_predictor\.(\d\.)?cls_score\.", r"box.\1classify."),
            Rename(r"^roi_heads\.box_predictor\.(\d\.)?bbox_pred\.", r"box.\1deltas."),
        ),
    }

    def __init__(
        self, trunk: Any, classes: int, config: Any, *, step: int | None = None, agnostic: bool = False
    ) -> None:
        """`trunk` makes of each region's features a vector of `trunk.width`; `step` is the stage of a cascade."""
        super().__init__()
        self.trunk, self.classes, self.config, self.step = trunk, classes, config, step
        self.classify = nn.Linear(trunk.width, classes + 1)
        self.deltas = nn.Linear(trunk.width, 4 * (1 if agnostic else classes))
        init.fill([self.classify], init.normal)
        init.fill([self.deltas], partial(nn.init.normal_, std=0.001))

    @property
    def scales(self) -> Sequence[float]:
        return SCALES if self.step is None else self.config.cascade_scales[self.step]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x)
        return self.classify(x), self.deltas(x).unflatten(1, (-1, 4))

    def loss(self, logits: Tensor, deltas: Tensor, samples: Sequence[Samples]) -> dict[str, Tensor]:
        """The terms `classification` and `box`, of what `forward` gave for the samples' boxes."""
        labels = torch.cat([each.labels for each in samples])
        count = max(1, len(labels))
        classification = cross_entropy(logits.float(), labels, reduction="sum") / count
        chosen = self.own(deltas, labels)[labels < self.classes].float()
        truth, positive = (torch.cat([getattr(each, name) for each in samples]) for name in ("truth", "positive"))
        kind, beta = self.config.box_loss, self.config.box_beta
        box = regression_loss(kind, chosen, truth, positive, beta=beta, scales=self.scales)
        return {"classification": classification, "box": box / count}

    def own(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """The deltas [R, 4] of each region's own class."""
        last = deltas.shape[1] - 1
        return deltas[torch.arange(len(deltas), device=deltas.device), labels.clamp(max=last)]

    def detect(
        self, probabilities: Tensor, deltas: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """What is found in each picture of (height, width) `sizes`.

        Args:
            probabilities: [R, classes + 1] of all pictures' regions.
            deltas: [R, classes or 1, 4].
            boxes: [N_i, 4] of each picture.
        """
        counts = [len(each) for each in boxes]
        found = zip(probabilities.float().split(counts), deltas.float().split(counts), boxes, sizes, strict=True)
        return [self._detect(*each) for each in found]

    def _detect(self, probabilities: Tensor, deltas: Tensor, boxes: Tensor, size: tuple[int, int]) -> Detections:
        config = self.config
        region, label = torch.where(probabilities[:, :-1] > config.score_threshold)
        score = probabilities[region, label]
        move = deltas[region, label.clamp(max=deltas.shape[1] - 1)]
        box = decode(move, boxes[region], self.scales)
        return suppress(clip_boxes_to_image(box, size), score, label, config)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, config: Any) -> Detections:
    """The best of boxes [N, 4] after non-maximum suppression in each class."""
    kept = remove_small_boxes(boxes, config.least_side)
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    kept = batched_nms(boxes, scores, labels, config.nms_threshold)[: config.detections]
    return Detections(boxes[kept], scores[kept], labels[kept])
