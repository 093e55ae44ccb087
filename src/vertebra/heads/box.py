"""Classification and box regression of RoIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vertebra.errors import check_choices, in_range
from vertebra.heads.roi import Detections, PostprocessConfig, Samples, Size
from vertebra.nn import init
from vertebra.ops.boxes import clip, decode, regression_loss
from vertebra.weights import Fix, Rename

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""One over the usual standard deviation of a proposal's deltas, so that regression targets have a deviation near 1."""


@dataclass(frozen=True)
class BoxLoss:
    """Loss of box regression."""

    name: Literal["smooth_l1", "giou", "diou", "ciou"] = "smooth_l1"
    """Smooth L1 of the deltas; or 1 - IoU of the boxes (generalised, distance or complete IoU)."""
    beta: float = 1 / 9
    """Where smooth L1 turns from quadratic to linear; 0 is L1. The papers use 1, torchvision 1/9."""

    def __post_init__(self) -> None:
        check_choices(self)
        in_range("box_loss.beta", self.beta, 0, 1_000_000)

    def __call__(
        self, deltas: Tensor, boxes: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    ) -> Tensor:
        """Summed over [N, 4] deltas at `references` for ground-truth `boxes`."""
        return regression_loss(self.name, deltas, boxes, references, beta=self.beta, weights=weights)


class BoxHead(nn.Module):
    """RoI features to logits [R, num_classes + 1], background last, and deltas [R, num_classes, 4].

    With `class_agnostic` the deltas are [R, 1, 4], the same for every class.

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
        self,
        trunk: Any,
        num_classes: int,
        *,
        loss: BoxLoss,
        postprocess: PostprocessConfig,
        weights: Sequence[float] = WEIGHTS,
        class_agnostic: bool = False,
    ) -> None:
        """`trunk` maps RoI features to a vector of `trunk.width`; `weights` are those of `ops.boxes.encode`."""
        super().__init__()
        self.trunk, self.num_classes, self.weights = trunk, num_classes, tuple(weights)
        self.box_loss, self.postprocess = loss, postprocess
        self.classify = nn.Linear(trunk.width, num_classes + 1)
        self.deltas = nn.Linear(trunk.width, 4 * (1 if class_agnostic else num_classes))
        init.fill([self.classify], init.normal)
        init.fill([self.deltas], partial(nn.init.normal_, std=0.001))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x)
        return self.classify(x), self.deltas(x).unflatten(1, (-1, 4))

    def class_logits(self, features: Tensor) -> Tensor:
        """Of RoI features [R, C, h, w]: [R, num_classes + 1], background last."""
        logits: Tensor = self(features)[0]
        return logits

    def loss(self, logits: Tensor, deltas: Tensor, samples: Sequence[Samples]) -> dict[str, Tensor]:
        """The terms `classification` and `box`, of the logits and deltas of the samples' boxes."""
        labels = torch.cat([s.labels for s in samples])
        count = max(1, len(labels))
        classification = cross_entropy(logits.float(), labels, reduction="sum") / count
        positive = self.deltas_of(deltas, labels)[labels < self.num_classes].float()
        boxes, references = torch.cat([s.gt_boxes for s in samples]), torch.cat([s.positive for s in samples])
        box = self.box_loss(positive, boxes, references, self.weights)
        return {"classification": classification, "box": box / count}

    @staticmethod
    def deltas_of(deltas: Tensor, labels: Tensor) -> Tensor:
        """The deltas [R, 4] of each RoI's class."""
        last = deltas.shape[1] - 1
        return deltas[torch.arange(len(deltas), device=deltas.device), labels.clamp(max=last)]

    def detect(
        self, probabilities: Tensor, deltas: Tensor, boxes: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Detections]:
        """Detections in each image.

        Args:
            probabilities: [R, num_classes + 1] of the RoIs of all images.
            deltas: [R, num_classes or 1, 4].
            boxes: [N_i, 4] of each image.
            sizes: (height, width) of each image.
        """
        counts = [len(box) for box in boxes]
        parts = zip(probabilities.float().split(counts), deltas.float().split(counts), boxes, sizes, strict=True)
        detect = self._detect_all if torch.compiler.is_compiling() else self._detect
        return [detect(*part) for part in parts]

    def _detect(self, probabilities: Tensor, deltas: Tensor, boxes: Tensor, size: Size) -> Detections:
        roi, label = torch.where(probabilities[:, :-1] > self.postprocess.score_threshold)
        score = probabilities[roi, label]
        selected = deltas[roi, label.clamp(max=deltas.shape[1] - 1)]
        box = decode(selected, boxes[roi], self.weights)
        return self.postprocess.select(clip(box, size), score, label)

    def _detect_all(self, probabilities: Tensor, deltas: Tensor, boxes: Tensor, size: Size) -> Detections:
        """As `_detect`, with shapes that do not depend on the data."""
        real = (boxes[:, 2:] > boxes[:, :2]).all(1)  # an empty proposal is an empty slot
        scores = torch.where(real[:, None], probabilities[:, :-1], -torch.inf)  # [R, num_classes]
        decoded = decode(deltas, boxes, self.weights).expand(-1, self.num_classes, -1)  # [R, num_classes, 4]
        labels = torch.arange(self.num_classes, device=scores.device).expand_as(scores)
        threshold = self.postprocess.score_threshold
        # Probabilities sum to 1, so no more classes than this exceed the threshold in a RoI.
        bound = len(boxes) * min(self.num_classes, int(1 / threshold) if threshold > 0 else self.num_classes)
        return self.postprocess.select(
            clip(decoded.reshape(-1, 4), size), scores.flatten(), labels.flatten(), class_bound=bound
        )
