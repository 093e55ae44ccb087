"""Which of many boxes belongs to which object, and which of them are learned from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

BACKGROUND, IGNORED = -1, -2
PAIRS = 2**24
"""Overlaps that are computed at a time: thousands of objects and all anchors of a pyramid at once take gigabytes."""


def match(
    candidates: Tensor, objects: Tensor, crowds: Tensor, *, high: float, low: float, nearest: float | None = None
) -> Tensor:
    """The object of each candidate.

    Args:
        candidates: [N, 4] boxes.
        objects: [M, 4] boxes.
        crowds: [K, 4] boxes of regions that say nothing: background that lies in one by more than half is ignored.
        high: least IoU of a match.
        low: below this IoU a candidate is background; in between it is ignored.
        nearest: each object also gets the candidates that overlap it most, if by this IoU; None leaves them.

    Returns:
        [N] int64, the object's index, BACKGROUND or IGNORED.

    Source: Faster R-CNN, arXiv:1506.01497, section 3.1.2.
    """
    matches = candidates.new_full((len(candidates),), BACKGROUND, dtype=torch.int64)
    if len(objects) and len(candidates):
        parts = candidates.split(max(1, PAIRS // len(objects)))
        overlaps = [box_iou(objects, parts[0])]  # [M, n]; of further parts, made anew where they are wanted

        def every() -> Iterator[Tensor]:
            yield from overlaps
            yield from (box_iou(objects, part) for part in parts[1:])

        found, most = [], objects.new_zeros(len(objects))
        for overlap in every():
            found.append(overlap.max(0))
            most = torch.maximum(most, overlap.amax(1))
        best, index = torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
        matches[best >= low] = IGNORED
        chosen = best >= high
        if nearest is not None:
            own = most.masked_fill((most < nearest) | (most == 0), 2.0)[:, None]  # which no overlap reaches
            chosen |= torch.cat([(overlap == own).any(0) for overlap in every()])
        matches[chosen] = index[chosen]
    if len(crowds):
        corner = torch.maximum(candidates[:, None, :2], crowds[None, :, :2])
        sides = (torch.minimum(candidates[:, None, 2:], crowds[None, :, 2:]) - corner).clamp(min=0)
        inside = sides.prod(2).amax(1) / box_area(candidates).clamp(min=1e-6)
        matches[(matches == BACKGROUND) & (inside > 0.5)] = IGNORED
    return matches


def sample(matches: Tensor, count: int, positive: float) -> tuple[Tensor, Tensor]:
    """Draws what is learned from, with torch's random numbers.

    Args:
        matches: [N] as `match` gives them.
        count: how many are drawn in all, if there are as many.
        positive: largest share of objects among them, in 0..1; background fills up.

    Returns:
        The indices of the objects drawn, and of the background drawn, each rising.
    """
    objects, background = torch.where(matches >= 0)[0], torch.where(matches == BACKGROUND)[0]
    taken = min(len(objects), int(count * positive))
    objects = objects[torch.randperm(len(objects), device=matches.device)[:taken]]
    rest = min(len(background), count - taken)
    background = background[torch.randperm(len(background), device=matches.device)[:rest]]
    return objects.sort()[0], background.sort()[0]
