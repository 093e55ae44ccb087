"""Masks in the rectangles that hold them, and COCO's run lengths read to such.

A run-length mask is the lengths of its runs of pixels off and on in turn, down one column after another. Decoding it
whole takes as long as its picture is large, and a picture of cells has hundreds; here only the columns that it covers
are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from vertebra.structures import Masks

Piece = tuple[int, int, np.ndarray]
"""A mask in the rectangle that holds it: x, y of the rectangle's top left pixel in the picture, and [h, w] bool."""


def cut(segment: list[list[float]] | dict[str, Any], size: tuple[int, int]) -> Piece:
    """One mask, from polygons or run lengths, for a picture of (height, width) `size`.

    Raises:
        ValueError: if its run lengths are for another size, or not what they should be; in one clause.
    """
    if isinstance(segment, list) and not segment:  # no polygon, no pixel
        return 0, 0, np.zeros((0, 0), bool)
    encoded = rle.merge(rle.frPyObjects(segment, *size)) if isinstance(segment, list) else segment
    counts = encoded["counts"]
    runs = unpack(counts) if isinstance(counts, str | bytes) else np.array(counts, np.int64)
    own = tuple(encoded["size"])
    if len(runs) and runs.min() < 0:
        raise ValueError("a run has a negative length")
    if runs.sum() != own[0] * own[1]:
        raise ValueError(f"its runs cover {runs.sum()} pixels of {own[0]} x {own[1]}")
    if own != tuple(size):
        raise ValueError(f"it has {own[0]} x {own[1]} pixels, not {size[0]} x {size[1]}")
    ends = runs.cumsum()
    on = np.flatnonzero(runs[1::2]) * 2 + 1  # the runs that have pixels
    if not len(on):
        return 0, 0, np.zeros((0, 0), bool)
    height = size[0]
    first, last = int(ends[on[0] - 1]) // height, -(-int(ends[on[-1]]) // height)  # columns
    inside = runs[: on[-1] + 2].copy() if len(runs) > on[-1] + 1 else np.append(runs, 0)
    inside[: on[0]] = 0
    inside[on[0] - 1] = ends[on[0] - 1] - first * height
    inside[-1] = last * height - ends[on[-1]]
    values = np.zeros(len(inside), bool)
    values[1::2] = True
    return tight(first, 0, np.repeat(values, inside).reshape(last - first, height).T)


def unpack(text: str | bytes) -> np.ndarray:
    """Run lengths from COCO's text: [runs] int64.

    A length is written in groups of five bits, the lowest first, each as a character from "0" on; bit 5 says that more
    groups follow, and the last group's bit 4 is the sign. From the fourth on, what is written is the difference from
    the length before the last.

    Raises:
        ValueError: if it is no such text.
    """
    groups = np.frombuffer(text.encode("latin-1") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    whole = len(groups) and groups.min() >= 0 and groups.max() < 64 and not groups[-1] & 32
    last = np.flatnonzero(groups & 32 == 0)
    first = np.append(0, last[:-1] + 1)
    if not whole or (last - first).max() > 9:
        raise ValueError("its counts are not in COCO's compressed form")
    shift = 5 * (np.arange(len(groups)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((groups & 31) << shift, first)
    runs -= ((groups[last] >> 4) & 1) << (shift[last] + 5)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def tight(x: int, y: int, mask: np.ndarray) -> Piece:
    """The smallest rectangle of a mask, [h, w] bool, whose top left pixel lies at x, y; of no pixels if none is on."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return x, y, mask[:0, :0]
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()  # else the whole mask stays in memory
    return x + int(columns[0]), y + int(rows[0]), inner


def apart(pieces: Sequence[Piece], size: tuple[int, int]) -> Masks:
    """Masks of a picture of (height, width) `size`, each in its own rectangle."""
    return Masks(size, [(x, y) for x, y, _ in pieces], [torch.from_numpy(mask.copy()) for _, _, mask in pieces])


def whole(pieces: Sequence[Piece], size: tuple[int, int]) -> Tensor:
    """Masks over the whole of a picture of (height, width) `size`: [N, H, W] bool."""
    masks = np.zeros((len(pieces), *size), bool)  # unlike torch's, memory that is not touched until it is used
    for place, (x, y, mask) in zip(masks, pieces, strict=True):
        place[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return torch.from_numpy(masks)
