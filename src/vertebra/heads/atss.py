"""The head of ATSS: classes, boxes and centerness of anchors, trained on adaptively selected samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss

from vertebra.heads.anchors import Anchors, flatten_anchors
from vertebra.heads.box import WEIGHTS
from vertebra.heads.dense import MMDET_TOWERS, classification_loss, tower
from vertebra.heads.roi import Size
from vertebra.nn import init
from vertebra.nn.conv import Conv2d
from vertebra.ops.atss import atss_assign
from vertebra.ops.boxes import centerness, centres, decode, split_crowd
from vertebra.ops.reduce import mean_over_processes
from vertebra.structures import Level, Target
from vertebra.weights import Rename


class ATSSHead(nn.Module):
    """Two towers of convolutions: maps [B, C, h, w] -> of each level, logits [B, A num_classes, h, w], deltas
    [B, 4 A, h, w] and centerness logits [B, A, h, w].

    Source: ATSS, arXiv:1912.02424, sections 3.1 and 4.
    """

    RULES = {  # noqa: RUF012
        "mmdet": (
            *MMDET_TOWERS,
            Rename(r"^bbox_head\.atss_cls\.", "dense.classify."),
            Rename(r"^bbox_head\.atss_reg\.", "dense.deltas."),
            Rename(r"^bbox_head\.atss_centerness\.", "dense.centerness."),
            Rename(r"^bbox_head\.scales\.(\d)\.scale$", r"dense.scales.\1"),
        ),
    }

    def __init__(
        self, levels: Sequence[Level], num_classes: int, *, anchors: Anchors, topk: int = 9, norm: bool = True
    ) -> None:
        """`topk` are the anchors per level, cell and object among which positives are selected."""
        super().__init__()
        channels, num_anchors = levels[0].channels, len(anchors.ratios)
        self.anchors, self.num_classes = anchors, num_classes
        self.topk = topk * num_anchors
        self.strides = [level.stride for level in levels]
        self.sides = [[anchors.scale * stride] for stride in self.strides]
        self.cls_tower, self.box_tower = tower(channels, norm=norm), tower(channels, norm=norm)
        self.classify = Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, num_anchors, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in levels)
        init.fill([*self.cls_tower, *self.box_tower, self.classify, self.deltas, self.centerness], init.normal)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))  # as in RetinaNet

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        raw = []
        for x, scale in zip(maps, self.scales, strict=True):
            y = self.box_tower(x)
            raw.append((self.classify(self.cls_tower(x)), scale * self.deltas(y), self.centerness(y)))
        return raw

    def grids(self, raw: Sequence[tuple[Tensor, Tensor, Tensor]], input_size: Size) -> list[Tensor]:
        """Anchors [h w A, 4] of each level."""
        return self.anchors.grids([logits for logits, _, _ in raw], self.strides, self.sides, input_size)

    def loss(
        self, raw: Sequence[tuple[Tensor, Tensor, Tensor]], targets: Sequence[Target], input_size: Size
    ) -> dict[str, Tensor]:
        """The terms `classification` (focal) and `centerness`, divided by the number of positive anchors, and `box`:
        twice the mean of 1 - GIoU, weighted by the centerness targets. Number and weights are means over processes.

        Source: arXiv:1912.02424, section 4.2, and the authors' code for the weights.
        """
        grids = self.grids(raw, input_size)
        anchors = torch.cat(grids)
        logits, deltas, centerness_logits = (
            torch.cat([flatten_anchors(x, values) for x in maps], 1).float()  # [B, anchors, values]
            for maps, values in zip(zip(*raw, strict=True), (self.num_classes, 4, 1), strict=True)
        )
        classification = box = center = total_weight = anchors.new_zeros(())
        count = 0
        for i, target in enumerate(targets):
            assert target.boxes is not None
            assert target.labels is not None
            instances, crowd_boxes = split_crowd(target)
            gt_boxes, labels = target.boxes[instances], target.labels[instances]
            matches = atss_assign(grids, gt_boxes, crowd_boxes, topk=self.topk)
            classification = classification + classification_loss(logits[i], labels, matches)
            positive = torch.where(matches >= 0)[0]
            matched, references = gt_boxes[matches[positive]], anchors[positive]
            weight = centerness(centres(references), matched)
            box = box + generalized_box_iou_loss(decode(deltas[i, positive], references, WEIGHTS), matched) @ weight
            logit = centerness_logits[i, positive, 0]
            center = center + binary_cross_entropy_with_logits(logit, weight, reduction="sum")
            count, total_weight = count + len(positive), total_weight + weight.sum()
        sums = torch.stack((total_weight.new_tensor(float(count)), total_weight))
        positives, total_weight = mean_over_processes(sums).clamp(min=1)
        return {
            "classification": classification / positives,
            "box": 2 * box / total_weight,
            "centerness": center / positives,
        }
