"""Sets of points at every cell of a pyramid, which stand for boxes and sample the features of the objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from vertebra.heads.anchors import flatten_anchors
from vertebra.heads.box import BoxLoss
from vertebra.heads.dense import MMDET_TOWERS, DenseLevel, classification_loss, tower
from vertebra.nn import init
from vertebra.ops.boxes import IOU_LOSSES, split_crowd
from vertebra.ops.deform import deform_conv2d
from vertebra.ops.match import match
from vertebra.ops.points import Conversion, assign_points, point_grid, points_to_boxes
from vertebra.structures import Level, Target
from vertebra.weights import Rename

GRADIENT = 0.1
"""Fraction of the gradient of the deformable convolutions that reaches the initial points."""
MOMENT_GRADIENT = 0.01
"""Fraction of the gradient that reaches the factors of the conversion `moment`."""
SCALE = 4.0
"""Sides of a box in strides of the level on which it is predicted; errors of boxes are measured in this unit."""


class RepPointsHead(nn.Module):
    """Two towers, and nine points at every cell in two stages: maps [B, C, h, w] -> of each level, logits
    [B, num_classes, h, w], initial and refined points [B, 18, h, w], y and x of each relative to the cell, in cells.

    The initial points are where deformable convolutions sample the towers.

    Source: RepPoints, arXiv:1904.11490, section 4; gradients as in the authors' code.
    """

    RULES: ClassVar[dict[str, tuple[Rename, ...]]] = {
        "mmdet": (
            *MMDET_TOWERS,
            Rename(r"^bbox_head\.reppoints_cls_conv\.", "dense.cls_conv."),
            Rename(r"^bbox_head\.reppoints_cls_out\.", "dense.classify."),
            Rename(r"^bbox_head\.reppoints_pts_(init|refine)_conv\.", r"dense.\1_conv."),
            Rename(r"^bbox_head\.reppoints_pts_(init|refine)_out\.", r"dense.\1_points."),
            Rename(r"^bbox_head\.moment_transfer$", "dense.moment"),
        ),
    }

    def __init__(
        self,
        levels: Sequence[Level],
        num_classes: int,
        *,
        conversion: Conversion,
        box_loss: BoxLoss,
        norm: bool = False,
        extra_channels: int = 0,
    ) -> None:
        """`extra_channels` are those that a method adds to the towers before the deformable convolutions."""
        super().__init__()
        channels = levels[0].channels
        self.num_classes, self.strides = num_classes, [level.stride for level in levels]
        self.conversion, self.box_loss = conversion, box_loss
        self.cls_tower, self.box_tower = tower(channels, 3, norm=norm), tower(channels, 3, norm=norm)
        self.init_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.init_points = nn.Conv2d(channels, 18, 1)
        self.cls_conv = nn.Conv2d(channels + extra_channels, channels, 3, padding=1, bias=False)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.refine_conv = nn.Conv2d(channels + extra_channels, channels, 3, padding=1, bias=False)
        self.refine_points = nn.Conv2d(channels, 18, 1)
        self.moment = nn.Parameter(torch.zeros(2)) if conversion == "moment" else None
        init.fill([*self.cls_tower, *self.box_tower, self.init_conv, self.init_points], init.normal)
        init.fill([self.cls_conv, self.classify, self.refine_conv, self.refine_points], init.normal)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))  # as in RetinaNet

    def forward(self, maps: Sequence[Tensor]) -> list[Any]:
        results = []
        for x in maps:
            boxes = self.box_tower(x)
            initial = self.init_points(self.init_conv(boxes).relu())
            results.append(self.refine(self.cls_tower(x), boxes, initial))
        return results

    def refine(self, classes: Tensor, boxes: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The predictions from the features of both towers at the initial points."""
        points = GRADIENT * initial + (1 - GRADIENT) * initial.detach()
        y, x = torch.meshgrid(*[torch.arange(-1, 2, device=initial.device)] * 2, indexing="ij")
        offsets = points - torch.stack((y, x), 2).flatten()[:, None, None].to(points)  # from the kernel's grid
        classes = deform_conv2d(classes, offsets, self.cls_conv.weight, padding=(1, 1)).relu()
        boxes = deform_conv2d(boxes, offsets, self.refine_conv.weight, padding=(1, 1)).relu()
        return self.classify(classes), initial, self.refine_points(boxes) + initial.detach()

    def boxes(self, points: Tensor, stride: int) -> Tensor:
        """Points [B, 18, h, w] of the level of this stride -> boxes [B, 4, h, w] in input pixels, not clipped."""
        moment: Tensor | None = self.moment
        if moment is not None:
            moment = MOMENT_GRADIENT * moment + (1 - MOMENT_GRADIENT) * moment.detach()
        boxes = points_to_boxes(points.float(), self.conversion, moment) * stride
        return boxes + point_grid((points.shape[2], points.shape[3]), stride, points.device).repeat(2, 1, 1)

    def match(self, boxes: Sequence[Tensor], gt_boxes: Tensor, crowd_boxes: Tensor) -> Tensor:
        """The ground-truth box of each point, by the initial boxes [h w, 4] of each level of an image, as `ops.match`
        returns it."""
        return match(torch.cat(list(boxes)), gt_boxes, crowd_boxes, high=0.5, low=0.4, low_quality_iou=0.0)

    def loss(self, raw: Sequence[Any], targets: Sequence[Target], input_size: tuple[int, int]) -> dict[str, Tensor]:
        """The terms `classification` (focal), `initial_box` and `box`, divided by the number of positive points.

        Source: arXiv:1904.11490, section 4.2.
        """
        sizes = [(x.shape[2], x.shape[3]) for x, *_ in raw]
        counts = [height * width for height, width in sizes]
        logits = torch.cat([flatten_anchors(x, self.num_classes) for x, *_ in raw], 1).float()  # [B, points, classes]
        initial, refined = (
            torch.cat([flatten_anchors(self.boxes(x[i], s), 4) for x, s in zip(raw, self.strides, strict=True)], 1)
            for i in (1, 2)
        )
        units = torch.cat([logits.new_full((n, 1), SCALE * s) for n, s in zip(counts, self.strides, strict=True)])
        classification, initial_box, box = logits.sum() * 0, initial.sum() * 0, refined.sum() * 0
        num_initial, num_positive = 0, 0
        for i, target in enumerate(targets):
            assert target.boxes is not None
            assert target.labels is not None
            instances, crowd_boxes = split_crowd(target)
            gt_boxes, labels = target.boxes[instances], target.labels[instances]
            points, index = assign_points(gt_boxes, sizes, self.strides, SCALE)
            initial_box = initial_box + self._box_loss(initial[i, points], gt_boxes[index], units[points])
            matches = self.match(initial[i].detach().split(counts), gt_boxes, crowd_boxes)
            positive = torch.where(matches >= 0)[0]
            box = box + self._box_loss(refined[i, positive], gt_boxes[matches[positive]], units[positive])
            classification = classification + classification_loss(logits[i], labels, matches)
            num_initial, num_positive = num_initial + max(1, len(points)), num_positive + max(1, len(positive))
        # The losses by the overlap of boxes have twice the weight, as in the authors' code of RepPoints v2.
        weight = 1.0 if self.box_loss.name == "smooth_l1" else 2.0
        return {
            "classification": classification / num_positive,
            "initial_box": 0.5 * weight * initial_box / num_initial,
            "box": weight * box / num_positive,
        }

    def _box_loss(self, boxes: Tensor, gt_boxes: Tensor, units: Tensor) -> Tensor:
        """Summed over [N, 4] boxes, in `units` [N, 1] of input pixels."""
        boxes, gt_boxes = boxes / units, gt_boxes / units
        if self.box_loss.name == "smooth_l1":
            return smooth_l1_loss(boxes, gt_boxes, beta=self.box_loss.beta, reduction="sum")
        # With sides longer by one unit, as in the authors' code: the loss has a gradient where boxes are empty.
        longer = boxes.new_tensor((0, 0, 1, 1))
        total: Tensor = IOU_LOSSES[self.box_loss.name](boxes + longer, gt_boxes + longer, reduction="sum")
        return total


def box_levels(raw: tuple[Tensor, ...], index: int) -> list[DenseLevel]:
    """Predictions for one image of a batch from, level by level, logits [B, num_classes, h, w] and boxes
    [B, 4, h, w] in input pixels."""

    def chosen(boxes: Tensor, indices: Tensor) -> Tensor:
        return boxes.flatten(1)[:, indices].T

    return [
        DenseLevel(logits[index], partial(chosen, boxes[index]))
        for logits, boxes in zip(raw[::2], raw[1::2], strict=True)
    ]
