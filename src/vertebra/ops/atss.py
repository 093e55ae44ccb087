"""Adaptive training sample selection: matching by the distribution of each box's overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vertebra.ops.boxes import centres, paired_iou
from vertebra.ops.match import BACKGROUND, MAX_PAIRS, ignore_crowd


def atss_assign(anchors: Sequence[Tensor], boxes: Tensor, crowd_boxes: Tensor, *, topk: int = 9) -> Tensor:
    """The ground-truth box of each anchor.

    The candidates of a box are the `topk` anchors of every level whose centres are closest to its centre. Positives are
    the candidates whose IoU is at least the mean plus the standard deviation over the candidates, and whose centre
    lies in the box, by more than 0.01 pixels. Of several boxes, an anchor is matched to the one of highest IoU, and of
    equal ones to the first.

    Args:
        anchors: [N_i, 4] of each level; at least two in all.
        boxes: [M, 4] ground truth.
        crowd_boxes: [K, 4] crowd regions: background that lies in one by more than half is ignored.
        topk: candidates per level; of a level with fewer anchors all are.

    Returns:
        [N] int64, N the sum of N_i: index of the ground-truth box, BACKGROUND or IGNORED.

    Source: ATSS, arXiv:1912.02424, algorithm 1.
    """
    all_anchors = torch.cat(list(anchors))
    matches = all_anchors.new_full((len(all_anchors),), BACKGROUND, dtype=torch.int64)
    if len(boxes):
        candidates = _closest(anchors, boxes, topk)  # [M, C]
        overlaps = paired_iou(boxes[:, None], all_anchors[candidates])
        deviation, mean = torch.std_mean(overlaps, 1, keepdim=True)
        points = centres(all_anchors)[candidates]
        inside = torch.cat((points - boxes[:, None, :2], boxes[:, None, 2:] - points), 2).amin(2) > 0.01
        positive = inside & (overlaps >= mean + deviation)
        index, anchor, overlap = torch.where(positive)[0], candidates[positive], overlaps[positive]
        highest = overlaps.new_zeros(len(all_anchors)).scatter_reduce(0, anchor, overlap, "amax")
        kept = overlap == highest[anchor]
        matches.scatter_reduce_(0, anchor[kept], index[kept], "amin", include_self=False)
    return ignore_crowd(matches, all_anchors, crowd_boxes)


def _closest(anchors: Sequence[Tensor], boxes: Tensor, topk: int) -> Tensor:
    """Indices [M, C] of the anchors of every level whose centres are closest to the centres of [M, 4] boxes."""
    indices, first = [], 0
    for level in anchors:
        parts = [
            torch.cdist(part, centres(level), compute_mode="donot_use_mm_for_euclid_dist")  # the other is inexact
            .topk(min(topk, len(level)), largest=False)
            .indices
            for part in centres(boxes).split(max(1, MAX_PAIRS // len(level)))
        ]
        indices.append(torch.cat(parts) + first)
        first += len(level)
    return torch.cat(indices, 1)
