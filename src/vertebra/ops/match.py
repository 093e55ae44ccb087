"""Matching of anchors or proposals to ground-truth boxes, and sampling of them for training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

BACKGROUND, IGNORED = -1, -2
MAX_PAIRS = 2**24
"""Overlaps that are computed at a time: thousands of objects and all anchors of a pyramid at once take gigabytes."""


def match(
    anchors: Tensor,
    boxes: Tensor,
    crowd_boxes: Tensor,
    *,
    high: float,
    low: float,
    low_quality_iou: float | None = None,
) -> Tensor:
    """The ground-truth box of each anchor.

    Args:
        anchors: [N, 4] anchors or proposals.
        boxes: [M, 4] ground truth.
        crowd_boxes: [K, 4] crowd regions: background that lies in one by more than half is ignored.
        high: least IoU of a match.
        low: below this IoU an anchor is background; in between it is ignored.
        low_quality_iou: each ground-truth box is also matched to the anchors that overlap it most, if by at least this
            IoU; None does not match them.

    Returns:
        [N] int64, index of the ground-truth box, BACKGROUND or IGNORED.

    Source: Faster R-CNN, arXiv:1506.01497, section 3.1.2.
    """
    matches = anchors.new_full((len(anchors),), BACKGROUND, dtype=torch.int64)
    if len(boxes) and len(anchors):
        parts = anchors.split(max(1, MAX_PAIRS // len(boxes)))
        first = box_iou(boxes, parts[0])  # [M, n]; of further parts it is computed again where it is needed

        def overlaps() -> Iterator[Tensor]:
            yield first
            yield from (box_iou(boxes, part) for part in parts[1:])

        maxima, best_of_box = [], boxes.new_zeros(len(boxes))
        for overlap in overlaps():
            maxima.append(overlap.max(0))
            best_of_box = torch.maximum(best_of_box, overlap.amax(1))
        best = torch.cat([maximum.values for maximum in maxima])
        index = torch.cat([maximum.indices for maximum in maxima])
        matches[best >= low] = IGNORED
        matched = best >= high
        if low_quality_iou is not None:
            unreachable = (best_of_box < low_quality_iou) | (best_of_box == 0)
            needed = best_of_box.masked_fill(unreachable, 2.0)[:, None]
            matched |= torch.cat([(overlap == needed).any(0) for overlap in overlaps()])
        matches[matched] = index[matched]
    return ignore_crowd(matches, anchors, crowd_boxes)


def ignore_crowd(matches: Tensor, anchors: Tensor, crowd_boxes: Tensor) -> Tensor:
    """Marks background as IGNORED, in place, where [N, 4] anchors lie in one of [K, 4] crowd regions by more than
    half of their area; returns `matches` [N]."""
    matches[(matches == BACKGROUND) & in_crowd(anchors, crowd_boxes)] = IGNORED
    return matches


def in_crowd(boxes: Tensor, crowd_boxes: Tensor) -> Tensor:
    """Which of [N, 4] boxes lie by more than half in one of [K, 4] crowd regions: [N] bool."""
    if not len(crowd_boxes):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    corner = torch.maximum(boxes[:, None, :2], crowd_boxes[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], crowd_boxes[None, :, 2:]) - corner).clamp(min=0)
    covered = sides.prod(2).amax(1) / box_area(boxes).clamp(min=1e-6)
    return covered > 0.5


def sample(matches: Tensor, batch_size: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Samples anchors or proposals for training, with torch's random numbers.

    Args:
        matches: [N] as `match` returns them.
        batch_size: number of samples, if there are as many.
        positive_fraction: largest fraction of positives among them, in 0..1; background fills up.

    Returns:
        The indices of the sampled positives, and of the sampled background, each ascending.
    """
    positive, background = torch.where(matches >= 0)[0], torch.where(matches == BACKGROUND)[0]
    num_positive = min(len(positive), int(batch_size * positive_fraction))
    positive = positive[torch.randperm(len(positive), device=matches.device)[:num_positive]]
    num_background = min(len(background), batch_size - num_positive)
    background = background[torch.randperm(len(background), device=matches.device)[:num_background]]
    return positive.sort()[0], background.sort()[0]
