"""Classes and boxes for every anchor of a pyramid, without proposals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes, sigmoid_focal_loss

from vertebra.heads.anchors import Anchors, flatten_anchors, ratio_major
from vertebra.heads.box import BoxLoss
from vertebra.heads.roi import Detections, PostprocessConfig, Size
from vertebra.nn import init
from vertebra.nn.conv import Conv2d, ConvNorm
from vertebra.ops.boxes import decode, split_crowd
from vertebra.ops.match import BACKGROUND, match
from vertebra.structures import Level, Target
from vertebra.weights import Fix, Rename

MMDET_TOWERS = (
    Rename(r"^bbox_head\.cls_convs\.(\d)\.conv\.", r"dense.cls_tower.\1.conv."),
    Rename(r"^bbox_head\.reg_convs\.(\d)\.conv\.", r"dense.box_tower.\1.conv."),
    Rename(r"^bbox_head\.cls_convs\.(\d)\.(?:bn|gn)\.", r"dense.cls_tower.\1.norm."),
    Rename(r"^bbox_head\.reg_convs\.(\d)\.(?:bn|gn)\.", r"dense.box_tower.\1.norm."),
)
"""Towers of convolutions in MMDetection, which names them alike in all its heads."""


class DenseHead(nn.Module):
    """Two towers of convolutions: maps [B, C, h, w] -> of each level, logits [B, A num_classes, h, w] and deltas
    [B, 4 A, h, w].

    Source: RetinaNet, arXiv:1708.02002, section 4.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            # Files from before torchvision 0.13 count the activations too.
            Rename(
                r"^head\.classification_head\.conv\.(\d)\.(?=weight|bias)",
                lambda m: f"dense.cls_tower.{int(m[1]) // 2}.conv.",
            ),
            Rename(
                r"^head\.regression_head\.conv\.(\d)\.(?=weight|bias)",
                lambda m: f"dense.box_tower.{int(m[1]) // 2}.conv.",
            ),
            Rename(r"^head\.classification_head\.conv\.(\d)\.0\.", r"dense.cls_tower.\1.conv."),
            Rename(r"^head\.classification_head\.conv\.(\d)\.1\.", r"dense.cls_tower.\1.norm."),
            Rename(r"^head\.regression_head\.conv\.(\d)\.0\.", r"dense.box_tower.\1.conv."),
            Rename(r"^head\.regression_head\.conv\.(\d)\.1\.", r"dense.box_tower.\1.norm."),
            Rename(r"^head\.classification_head\.cls_logits\.", "dense.classify."),
            Rename(r"^head\.regression_head\.bbox_reg\.", "dense.deltas."),
        ),
        "mmdet": (
            *MMDET_TOWERS,
            Rename(r"^bbox_head\.retina_cls\.", "dense.classify."),
            Rename(r"^bbox_head\.retina_reg\.", "dense.deltas."),
        ),
        "detectron2": (
            Rename(r"^head\.cls_subnet\.(\d)\.", lambda m: f"dense.cls_tower.{int(m[1]) // 2}.conv."),
            Rename(r"^head\.bbox_subnet\.(\d)\.", lambda m: f"dense.box_tower.{int(m[1]) // 2}.conv."),
            Rename(r"^head\.cls_score\.", "dense.classify."),
            Rename(r"^head\.bbox_pred\.", "dense.deltas."),
            Fix(r"^dense\.classify\.", lambda x: ratio_major(x, 3, x.shape[0] // 9), "anchors by side -> by ratio"),
            Fix(r"^dense\.deltas\.", lambda x: ratio_major(x, 3, 4), "anchors by side -> by ratio"),
        ),
    }

    def __init__(
        self,
        levels: Sequence[Level],
        sides: Sequence[Sequence[float]],
        num_classes: int,
        *,
        anchors: Anchors,
        box_loss: BoxLoss,
        norm: bool = False,
        loss_per_image: bool = False,
    ) -> None:
        """`sides` are the anchors' on each level, in input pixels."""
        super().__init__()
        channels = levels[0].channels
        self.anchors, self.box_loss, self.loss_per_image = anchors, box_loss, loss_per_image
        self.num_classes = num_classes
        self.sides, self.strides = sides, [level.stride for level in levels]
        num_anchors = len(sides[0]) * len(anchors.ratios)
        self.cls_tower, self.box_tower = tower(channels, norm=norm), tower(channels, norm=norm)
        self.classify = Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        init.fill([*self.cls_tower, *self.box_tower, self.classify, self.deltas], init.normal)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))  # section 4.1, "Initialization"

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(self.classify(self.cls_tower(x)), self.deltas(self.box_tower(x))) for x in maps]

    def grids(self, raw: Sequence[tuple[Tensor, Tensor]], input_size: Size) -> list[Tensor]:
        """Anchors [h w A, 4] of each level."""
        return self.anchors.grids([logits for logits, _ in raw], self.strides, self.sides, input_size)

    def loss(
        self, raw: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Target], input_size: Size
    ) -> dict[str, Tensor]:
        """The terms `classification` (focal) and `box`, divided by the number of positive anchors.

        Source: arXiv:1708.02002, sections 3.2 and 4.
        """
        anchors = torch.cat(self.grids(raw, input_size))
        logits = torch.cat([flatten_anchors(x, self.num_classes) for x, _ in raw], 1).float()  # [B, anchors, classes]
        deltas = torch.cat([flatten_anchors(x, 4) for _, x in raw], 1).float()
        classification, box, count = logits.sum() * 0, logits.sum() * 0, 0
        for i, target in enumerate(targets):
            assert target.boxes is not None
            assert target.labels is not None
            instances, crowd_boxes = split_crowd(target)
            gt_boxes, labels = target.boxes[instances], target.labels[instances]
            matches = match(anchors, gt_boxes, crowd_boxes, high=0.5, low=0.4, low_quality_iou=0.0)
            positive = torch.where(matches >= 0)[0]
            focal = classification_loss(logits[i], labels, matches)
            regression = self.box_loss(deltas[i, positive], gt_boxes[matches[positive]], anchors[positive])
            if self.loss_per_image:
                normalizer = max(1, len(positive)) * len(targets)
                focal, regression = focal / normalizer, regression / normalizer
            classification, box, count = classification + focal, box + regression, count + len(positive)
        total = 1 if self.loss_per_image else max(1, count)
        return {"classification": classification / total, "box": box / total}


def classification_loss(logits: Tensor, labels: Tensor, matches: Tensor) -> Tensor:
    """Focal loss of the anchors of an image, summed over those that are not ignored.

    Args:
        logits: [N, num_classes].
        labels: [M] int64, of the ground-truth boxes.
        matches: [N], as `ops.match.match` returns them.

    Source: RetinaNet, arXiv:1708.02002, section 3.2.
    """
    positive, used = torch.where(matches >= 0)[0], matches >= BACKGROUND
    targets = torch.zeros_like(logits)
    targets[positive, labels[matches[positive]]] = 1.0
    total: Tensor = sigmoid_focal_loss(logits[used], targets[used], reduction="sum")
    return total


def tower(channels: int, count: int = 4, *, norm: bool = False) -> nn.Sequential:
    """`count` convolutions of 3 x 3, each with a ReLU, with or without a norm."""
    return nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm) for _ in range(count)))


@dataclass
class DenseLevel:
    """Predictions of a dense head on one level of the pyramid, for one image."""

    logits: Tensor
    """[A num_classes, h, w]."""
    boxes: Callable[[Tensor], Tensor]
    """[K] indices of anchors, in the order of `flatten_anchors` -> their boxes [K, 4] in input pixels."""
    quality: Tensor | None = None
    """[A, h, w] logits of a further factor on the scores, such as the centerness."""
    anchors: int = 1
    """Anchors of each cell, A."""


def decoded(deltas: Tensor, anchors: Tensor, indices: Tensor, weights: Sequence[float] = (1.0,) * 4) -> Tensor:
    """Boxes [K, 4] of the anchors at `indices`, from deltas [4 A, h, w] at anchors [h w A, 4]."""
    return decode(flatten_anchors(deltas[None], 4)[0, indices].float(), anchors[indices], weights)


def detect_dense(
    levels: Sequence[DenseLevel],
    size: Size,
    postprocess: PostprocessConfig,
    *,
    pre_nms_top_n: int = 1000,
    clip_after_nms: bool = False,
) -> Detections:
    """Detections in one image from the predictions of a dense head.

    Args:
        levels: the predictions on each level of the pyramid.
        size: (height, width) of the image in the input, in pixels.
        pre_nms_top_n: top-scoring predictions kept per level before NMS, by the score of their class alone.
        clip_after_nms: whether boxes are clipped to the image only after NMS, as in Detectron2.
    """
    scores, boxes, labels = [], [], []
    for level in levels:
        num_classes = level.logits.shape[0] // level.anchors
        score = flatten_anchors(level.logits[None], num_classes)[0].float().sigmoid().flatten()
        above = torch.where(score > postprocess.score_threshold)[0]
        score, order = score[above].topk(min(pre_nms_top_n, len(above)))
        anchor, label = above[order] // num_classes, above[order] % num_classes
        if level.quality is not None:
            score = score * flatten_anchors(level.quality[None], 1)[0, anchor, 0].float().sigmoid()
        box = level.boxes(anchor)
        boxes.append(box if clip_after_nms else clip_boxes_to_image(box, size))
        scores.append(score)
        labels.append(label)
    detections = postprocess.select(torch.cat(boxes), torch.cat(scores), torch.cat(labels))
    if not clip_after_nms:
        return detections
    clipped = clip_boxes_to_image(detections.boxes, size)
    large = remove_small_boxes(clipped, postprocess.min_box_size)
    return Detections(clipped[large], detections.scores[large], detections.labels[large])
