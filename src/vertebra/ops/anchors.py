"""Boxes of fixed sizes laid out over feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        offset: where in its cell an anchor's centre lies, in cells: 0.5 is the middle; Detectron2, MMDetection and
            torchvision have 0, the corner.
        rounded: whether the corners, relative to the centre, are rounded to whole pixels, as torchvision has it.

    Returns:
        [height * width * A, 4] float32 x1, y1, x2, y2 in input pixels, A = len(sides) * len(ratios);
        cells row-major, and within a cell ratio-major then side. Not clipped to the image.

    Raises:
        ValueError: if sides or ratios is empty.

    Source: Faster R-CNN, arXiv:1506.01497, section 3.1.1.
    """
    if not sides or not ratios:
        raise ValueError("anchors need at least one side and one ratio.")
    high, wide = (stride, stride) if isinstance(stride, int) else stride
    root = torch.tensor(ratios, device=device).sqrt()[:, None]
    side = torch.tensor(sides, dtype=torch.float32, device=device)[None]
    heights, widths = (root * side).flatten(), (side / root).flatten()  # [A]
    around = torch.stack((-widths, -heights, widths, heights), 1) / 2
    if rounded:
        around = around.round()
    y = (torch.arange(size[0], device=device) + offset) * high
    x = (torch.arange(size[1], device=device) + offset) * wide
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), 2).flatten(0, 1)[:, [1, 0, 1, 0]]  # [cells, 4]
    return (centres[:, None] + around[None]).reshape(-1, 4).float()


def pyramid_anchors(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    sides: Sequence[Sequence[float]],
    extent: tuple[int, int],
    config: Any,
) -> list[Tensor]:
    """Anchors of every level.

    Args:
        maps: [B, C, h, w], of which the sizes count.
        strides: input pixels per cell of each.
        sides: those of the anchors of each.
        extent: (height, width) of the input, for `config.inferred_strides`.
        config: with `anchor_ratios`, `anchor_offset`, `rounded_anchors` and `inferred_strides`.

    Returns:
        [h w A, 4] of each level, as `anchor_grid` gives them.
    """
    result = []
    for x, stride, own in zip(maps, strides, sides, strict=True):
        cells = (x.shape[2], x.shape[3])
        apart = (extent[0] // cells[0], extent[1] // cells[1]) if config.inferred_strides else stride
        offset, rounded = config.anchor_offset, config.rounded_anchors
        own = [float(int(side)) for side in own] if rounded else own
        result.append(
            anchor_grid(cells, apart, own, config.anchor_ratios, offset=offset, rounded=rounded, device=x.device)
        )
    return result
