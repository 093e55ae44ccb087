"""COCO's run-length encoding (RLE) of masks: encoding and decoding in the rectangles that masks cover.

A mask is the lengths of its runs of 0 and 1 in turn, 0 first, down one column after another. Decoding a whole image
takes as long as the image is large, and an image of cells has hundreds of masks; here only the columns that a mask
covers are processed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.structures import Masks

RunLengths = dict[str, Any]
"""A mask in COCO's RLE: `size` (height, width) and `counts`, a list of run lengths or a compressed string."""


def encode(masks: Masks) -> list[RunLengths]:
    """Masks to compressed RLE as JSON holds it: {"size": [height, width], "counts": str} each."""
    return [encode_mask(crop, corner, masks.size) for crop, corner in zip(masks.crops, masks.corners, strict=True)]


def encode_mask(mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> RunLengths:
    """One mask to compressed RLE, in time proportional to its crop.

    Args:
        mask: [h, w] bool, inside the image.
        corner: (x, y) of its top left pixel in the image.
        size: (height, width) of the image in pixels.

    Returns:
        {"size": [height, width], "counts": str}.
    """
    (h, w), (x, y), height = mask.shape, corner, size[0]
    columns = np.zeros((w, h + 1), np.int8)  # a zero below each column ends its last run
    columns[:, :h] = mask.cpu().numpy().T
    column, row = np.divmod(np.flatnonzero(np.diff(columns.ravel(), prepend=0)), h + 1)
    edges = (x + column) * height + y + row
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # ends at the foot of a column where the next one begins
    return encode_edges(np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2])), size)


def encode_edges(edges: np.ndarray, size: tuple[int, int]) -> RunLengths:
    """Compressed RLE from the pixels, numbered down the columns, where the runs of 1 begin and end in turn.

    Args:
        edges: [2 * runs] int64, strictly ascending; ends are exclusive.
        size: (height, width) of the image in pixels.
    """
    height, width = size
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and not counts[-1]:
        counts = counts[:-1]
    from faster_coco_eval.core import mask as coco_mask

    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)["counts"]
    return {"size": [height, width], "counts": packed.decode() if isinstance(packed, bytes) else packed}


def decode(segment: RunLengths | list[list[float]], size: tuple[int, int]) -> tuple[int, int, Tensor]:
    """One mask from RLE or polygons, cropped to its pixels.

    Args:
        segment: RLE, compressed or not, or a list of polygons x1, y1, x2, y2, ... in pixels.
        size: (height, width) of the image in pixels.

    Returns:
        x and y of the crop's top left pixel in the image, and the crop [h, w] bool, of no pixels if none is set.

    Raises:
        ValueError: if the RLE is of another size or malformed; the text is one clause.
    """
    if isinstance(segment, list) and not segment:
        return 0, 0, torch.zeros(0, 0, dtype=torch.bool)
    from faster_coco_eval.core import mask as coco_mask

    encoded = coco_mask.merge(coco_mask.frPyObjects(segment, *size)) if isinstance(segment, list) else segment
    counts = encoded["counts"]
    runs = unpack(counts) if isinstance(counts, str | bytes) else np.array(counts, np.int64)
    height, width = encoded["size"]
    if len(runs) and runs.min() < 0:
        raise ValueError("a run has a negative length")
    if runs.sum() != height * width:
        raise ValueError(f"its runs cover {runs.sum()} pixels of {height} x {width}")
    if (height, width) != tuple(size):
        raise ValueError(f"it has {height} x {width} pixels, not {size[0]} x {size[1]}")
    ends = runs.cumsum()
    on = np.flatnonzero(runs[1::2]) * 2 + 1  # runs of 1 that have pixels
    if not len(on):
        return 0, 0, torch.zeros(0, 0, dtype=torch.bool)
    first, last = int(ends[on[0] - 1]) // height, -(-int(ends[on[-1]]) // height)  # columns
    inside = runs[: on[-1] + 2].copy() if len(runs) > on[-1] + 1 else np.append(runs, 0)
    inside[: on[0]] = 0
    inside[on[0] - 1] = ends[on[0] - 1] - first * height
    inside[-1] = last * height - ends[on[-1]]
    values = np.zeros(len(inside), bool)
    values[1::2] = True
    return crop_to_pixels(first, 0, np.repeat(values, inside).reshape(last - first, height).T)


def iou(masks: Sequence[RunLengths], others: Sequence[RunLengths]) -> np.ndarray:
    """IoU of every mask with every other one, all of images of one size: [M, N] float64 in 0..1."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    from faster_coco_eval.core import mask as coco_mask

    return np.asarray(coco_mask.iou(list(masks), list(others), [0] * len(others)))


def unpack(counts: str | bytes) -> np.ndarray:
    """Run lengths from COCO's compressed counts: [runs] int64.

    A length is written in groups of five bits, the lowest first, each as a character from "0" on; bit 5 says that more
    groups follow, and the last group's bit 4 is the sign. From the fourth length on, the difference from the length
    before the last is written.

    Raises:
        ValueError: if the string is malformed.
    """
    characters = np.frombuffer(counts.encode("latin-1") if isinstance(counts, str) else counts, np.uint8)
    groups = characters.astype(np.int64) - 48
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


def crop_to_pixels(x: int, y: int, mask: np.ndarray) -> tuple[int, int, Tensor]:
    """A mask [h, w] bool whose top left pixel is (x, y), cropped to the bounding box of its pixels.

    Returns:
        x and y of the crop, and a copy of it [h, w] bool; of no pixels if none is set.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return x, y, torch.zeros(0, 0, dtype=torch.bool)
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()  # a view would keep the whole mask
    return x + int(columns[0]), y + int(rows[0]), torch.from_numpy(crop)
