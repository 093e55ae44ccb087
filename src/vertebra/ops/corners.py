"""Corners of boxes: pooling towards them, their heatmaps, and the foreground within the boxes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vertebra.ops.match import MAX_PAIRS
from vertebra.ops.points import nearest_points, point_grid


def corner_pool(vertical: Tensor, horizontal: Tensor, corner: Literal["top_left", "bottom_right"]) -> Tensor:
    """The sum of two running maxima over maps [B, C, h, w]: same.

    For `top_left`, a cell has the maximum of `vertical` from it down to the lower border and that of `horizontal` from
    it to the right one; for `bottom_right`, up to the upper border and to the left one.

    Source: CornerNet, arXiv:1808.01244, section 3.2.
    """
    if corner == "bottom_right":
        return vertical.cummax(2).values + horizontal.cummax(3).values
    return vertical.flip(2).cummax(2).values.flip(2) + horizontal.flip(3).cummax(3).values.flip(3)


def gaussian_radius(sides: Tensor, iou: float = 0.7) -> Tensor:
    """How far both corners of boxes may move, in any direction, so that the IoU with the box stays at least `iou`.

    Args:
        sides: [N, 2] width and height, in any unit.
        iou: in 0..1, above 0.

    Returns:
        [N] in the same unit: the least of the radii where one box lies in the other and where both are shifted.

    Source: CornerNet, arXiv:1808.01244, section 3.1.
    """
    total, area = sides.sum(1), sides.prod(1)
    shifted = (total - (total**2 - 4 * area * (1 - iou) / (1 + iou)).clamp(min=0).sqrt()) / 2
    smaller = (total - (total**2 - 4 * area * (1 - iou)).clamp(min=0).sqrt()) / 4
    larger = ((total**2 + 4 * area * (1 - iou) / iou).sqrt() - total) / 4
    return torch.minimum(torch.minimum(shifted, smaller), larger)


def corner_targets(corners: Tensor, radii: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of one kind of corner on one level.

    Args:
        corners: [N, 2] x, y in input pixels.
        radii: [N] in input pixels, where the Gaussian around a corner ends, at three standard deviations.
        size: (height, width) of the level, in cells.
        stride: input pixels per cell.

    Returns:
        [h w] heatmap in 0..1, 1 at the points nearest to corners; [P] int64, those points; and [P, 2], the offsets x, y
        from them to their corners, in cells.

    Source: RepPoints v2, arXiv:2007.08508, section 3.2.
    """
    points = point_grid(size, stride, corners.device).flatten(1).T  # [h w, 2]
    heatmap = points.new_zeros(len(points))
    step = max(1, MAX_PAIRS // len(points))
    for part in (slice(first, first + step) for first in range(0, len(corners), step)):
        distances = torch.cdist(points, corners[part], compute_mode="donot_use_mm_for_euclid_dist")
        deviations = (2 * radii[part] + 1) / 6
        values = torch.exp(-(distances**2) / (2 * deviations**2)) * (distances < radii[part])
        heatmap = torch.maximum(heatmap, values.amax(1))
    cells = nearest_points(corners, torch.tensor((size[1], size[0]), device=corners.device), stride)
    index = cells[:, 1] * size[1] + cells[:, 0]
    heatmap[index] = 1.0
    offsets = points.new_zeros(len(points), 2)
    offsets[index] = corners / stride - cells
    positive = index.unique()
    return heatmap, positive, offsets[positive]


def heatmap_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Focal loss of [N] logits for targets in 0..1, where those at 1 are positives, summed.

    Source: CornerNet, arXiv:1808.01244, equation 1, with exponents 2 and 4.
    """
    probability = logits.sigmoid()
    positive = -logsigmoid(logits) * (1 - probability) ** 2
    negative = -logsigmoid(-logits) * probability**2 * (1 - heatmap) ** 4
    return torch.where(heatmap == 1, positive, negative).sum()


def foreground_weights(boxes: Tensor, labels: Tensor, size: tuple[int, int], stride: int, num_classes: int) -> Tensor:
    """Where the boxes of each class lie.

    Args:
        boxes: [N, 4] in input pixels.
        labels: [N] int64.
        size: (height, width) of the map, in cells.
        stride: input pixels per cell.

    Returns:
        [num_classes, height, width]: one over the area in pixels of the smallest box of the class that covers a cell in
        part; 0 where there is none.

    Source: RepPoints v2, arXiv:2007.08508, section 3.2.
    """
    weights = boxes.new_zeros(num_classes, *size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)
    order = areas.argsort(descending=True, stable=True)
    cells = (boxes[order] / stride).clamp(min=0).long().tolist()
    for (x1, y1, x2, y2), label, area in zip(cells, labels[order].tolist(), areas[order].tolist(), strict=True):
        weights[label, y1 : y2 + 1, x1 : x2 + 1] = 1 / area
    return weights


def snap_to_corners(positions: Tensor, logits: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Moves positions to the top-scoring corner among the four points around each.

    Args:
        positions: [B, 2, N] x, y in input pixels, not negative.
        logits: [B, h, w] that a point is nearest to a corner.
        offsets: [B, 2, h, w] x, y from the points to their corners, in cells.
        stride: input pixels per cell.

    Returns:
        [B, 2, N] in input pixels.

    Source: RepPoints v2, arXiv:2007.08508, section 3.3 ("joint inference"), as in the authors' code.
    """
    height, width = logits.shape[1:]
    x = (positions[:, 0] / stride).floor().long().clamp(max=max(width - 2, 0))
    y = (positions[:, 1] / stride).floor().long().clamp(max=max(height - 2, 0))
    right, below = min(1, width - 1), min(1, height - 1)
    index = (y * width + x)[:, None] + torch.tensor((0, right, below * width, below * width + right), device=x.device)[
        :, None
    ]  # [B, 4, N]
    scores = logits.flatten(1).gather(1, index.flatten(1)).view_as(index)
    best = index.gather(1, scores.argmax(1, keepdim=True))  # [B, 1, N]
    shifts = offsets.flatten(2).gather(2, best.expand(-1, 2, -1))
    return (torch.cat((best % width, best // width), 1) + shifts) * stride
