"""Sets of points that stand for boxes, and the points at which boxes are predicted.

Points lie at the top left corners of the cells of a pyramid's levels; they are counted level by level, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Conversion = Literal["moment", "partial_minmax", "minmax", "corners"]


def points_to_boxes(points: Tensor, conversion: Conversion, moment: Tensor | None = None) -> Tensor:
    """The box of each set of points.

    Args:
        points: [B, 2 P, ...] y and x of each of P points, in any unit.
        conversion: `minmax`, the smallest box around all points; `partial_minmax`, around the first four; `moment`,
            centred on their mean, with half sides in proportion to their standard deviations; `corners`, the first two
            points are the top left and the bottom right corner.
        moment: [2] natural logarithms of half the width and half the height, in standard deviations, for `moment`.

    Returns:
        [B, 4, ...] x1, y1, x2, y2 in the same unit. Of `corners`, x2 and y2 may be less than x1 and y1.

    Source: RepPoints, arXiv:1904.11490, section 3.2; `corners`, RepPoints v2, arXiv:2007.08508, section 3.4.
    """
    xy = points.unflatten(1, (-1, 2)).flip(2)  # [B, P, 2, ...]
    if conversion == "corners":
        return xy[:, :2].flatten(1, 2)
    if conversion == "moment":
        assert moment is not None
        half = xy.std(1) * moment.exp().view(2, *[1] * (xy.ndim - 3))  # [B, 2, ...]
        return torch.cat((xy.mean(1) - half, xy.mean(1) + half), 1)
    if conversion == "partial_minmax":
        xy = xy[:, :4]
    return torch.cat((xy.amin(1), xy.amax(1)), 1)


def point_grid(size: tuple[int, int], stride: int, device: torch.device | None = None) -> Tensor:
    """x, y of the points of one level of (height, width) `size`, in input pixels: [2, height, width] float32."""
    y, x = (torch.arange(length, device=device) * float(stride) for length in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def nearest_points(positions: Tensor, size: Tensor, stride: Tensor | int) -> Tensor:
    """x, y of the cells of the points nearest to `positions`.

    Args:
        positions: [N, 2] x, y in input pixels.
        size: [2] or [N, 2] width, height of the level, in cells.
        stride: input pixels per cell, or [N, 1] of them.

    Returns:
        [N, 2] int64; between two points at the same distance, the left or upper one.
    """
    return (positions / stride - 0.5).ceil().clamp(min=0).minimum(size.to(positions) - 1).long()


def assign_points(
    boxes: Tensor, sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float = 4.0
) -> tuple[Tensor, Tensor]:
    """The point nearest to the centre of each box, on the level of its size.

    Args:
        boxes: [N, 4] ground truth in input pixels.
        sizes: (height, width) of each level, in cells.
        strides: input pixels per cell of each level, each twice the one before.
        scale: sides of a box, in strides of its level.

    Returns:
        [P] int64 points, ascending, and [P] int64, the box of each. Of several boxes at one point it is the one whose
        centre is nearest, in units of the box's sides.

    Source: arXiv:1904.11490, section 4.2 ("Training").
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    first = int(math.log2(strides[0]))
    level = (sides / scale).log2().mean(1).long().clamp(first, first + len(strides) - 1) - first
    stride = boxes.new_tensor(strides)[level, None]
    size = torch.tensor([(width, height) for height, width in sizes], device=boxes.device)
    cells = nearest_points(centres, size[level], stride)
    distances = ((cells * stride - centres) / sides).norm(dim=1)
    ends = size.prod(1).cumsum(0)
    points = (ends - size.prod(1))[level] + cells[:, 1] * size[level, 0] + cells[:, 0]
    total, count = int(ends[-1]), len(boxes)
    nearest = distances.new_full((total,), torch.inf).scatter_reduce(0, points, distances, "amin")
    (winners,) = torch.where(distances == nearest[points])
    matches = points.new_full((total,), count).scatter_reduce(0, points[winners], winners, "amin")
    (assigned,) = torch.where(matches < count)
    return assigned, matches[assigned]
