"""Maps of logits brought to the size of an image, a band of rows at a time: all at once they may not fit into memory.

Shapes: K classes, h x w cells, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Size = tuple[int, int]

BAND = 1 << 18
"""Numbers of a band, about: a megabyte stays in a core's cache."""


def bands(
    logits: Tensor, size: Size, *, share: tuple[float, float] = (1.0, 1.0), align_corners: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear interpolation of [K, h, w] logits to (height, width) `size`: the rows of each band, and [rows, W, K].

    Args:
        share: part of the map's height and width that the image covers, from the top left; the rest is padding.
        align_corners: whether corner cells coincide with corner pixels, else corners with corners.
    """
    cells = logits.permute(1, 2, 0).contiguous()  # [h, w, K]: what lies together is interpolated together
    low, high, part = _positions(cells.shape[1], size[1], share[1], align_corners, cells)
    wide = cells[:, low].lerp_(cells[:, high], part[:, None])  # [h, W, K]
    low, high, part = _positions(cells.shape[0], size[0], share[0], align_corners, cells)
    rows = max(1, BAND // max(1, wide[0].numel()))
    for start in range(0, size[0], rows):
        band = slice(start, min(size[0], start + rows))
        yield band, torch.lerp(wide[low[band]], wide[high[band]], part[band, None, None])


def _positions(
    cells: int, pixels: int, share: float, align_corners: bool, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pixel, the cells before and after it, and its position between them in 0..1."""
    index = torch.arange(pixels, device=like.device, dtype=torch.float32)
    if align_corners:
        position = index * ((share * cells - 1) / max(1, pixels - 1))
    else:
        position = (index + 0.5) * (share * cells / pixels) - 0.5
    position = position.clamp(0, cells - 1)
    low = position.floor().long()
    return low, (low + 1).clamp(max=cells - 1), (position - low).to(like.dtype)


def label_map(
    logits: Tensor, size: Size, *, share: tuple[float, float] = (1.0, 1.0), align_corners: bool = False
) -> Tensor:
    """The class with the highest logit of every pixel: [K, h, w] -> [H, W] uint8; arguments as for `bands`."""
    labels = torch.empty(size, dtype=torch.uint8, device=logits.device)
    for rows, values in bands(logits, size, share=share, align_corners=align_corners):
        labels[rows] = values.argmax(2)
    return labels


def resampled(
    logits: Tensor, size: Size, *, share: tuple[float, float] = (1.0, 1.0), align_corners: bool = False
) -> Tensor:
    """The logits of every pixel: [K, h, w] -> [K, H, W]; arguments as for `bands`."""
    return torch.cat([x for _, x in bands(logits, size, share=share, align_corners=align_corners)]).permute(2, 0, 1)
