"""Boxes of fixed sizes laid out over feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_grid(
    size: tuple[int, int],
    stride: int | tuple[int, int],
    sides: Sequence[float],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    offset: float = 0.5,
    rounded: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """Anchors of one pyramid level, centred on its cells.

    Args:
        size: (height, width) of the feature map, in cells.
        stride: input pixels per cell, or (along the height, along the width).
        sides: square roots of the anchor areas, in input pixels.
        ratios: height / width of each anchor.
        offset: position of the anchor centre in its cell, in cells: 0.5 is the middle; Detectron2, MMDetection and
            torchvision use 0, the corner.
        rounded: whether the corners, relative to the centre, are rounded to whole pixels, as in torchvision.

    Returns:
        [height * width * A, 4] float32 x1, y1, x2, y2 in input pixels, A = len(sides) * len(ratios);
        cells row-major, and within a cell ratio-major then side. Not clipped to the image.

    Raises:
        ValueError: if sides or ratios is empty.

    Source: Faster R-CNN, arXiv:1506.01497, section 3.1.1.
    """
    if not sides or not ratios:
        raise ValueError("anchors need at least one side and one ratio.")
    stride_y, stride_x = (stride, stride) if isinstance(stride, int) else stride
    root = torch.tensor(ratios, device=device).sqrt()[:, None]
    side = torch.tensor(sides, dtype=torch.float32, device=device)[None]
    heights, widths = (root * side).flatten(), (side / root).flatten()  # [A]
    corners = torch.stack((-widths, -heights, widths, heights), 1) / 2
    if rounded:
        corners = corners.round()
    y = (torch.arange(size[0], device=device) + offset) * stride_y
    x = (torch.arange(size[1], device=device) + offset) * stride_x
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), 2).flatten(0, 1)[:, [1, 0, 1, 0]]  # [cells, 4]
    return (centres[:, None] + corners[None]).reshape(-1, 4).float()
