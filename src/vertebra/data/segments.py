"""Masks as datasets write them, polygons, COCO's RLE or image files: checking, decoding and encoding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.errors import VertebraError, first_line, shown
from vertebra.files import are_numbers
from vertebra.images import MAX_PIXELS, open_image
from vertebra.images import decode as decode_image
from vertebra.ops import rle

MAX_INSTANCE = 2**31 - 1
"""Number of an instance in a map."""
MAX_INSTANCES = 65_536
"""Instances in one map; images of noise have more."""

Segment = list[list[float]] | dict[str, Any] | Path | Tensor
"""One mask as a dataset writes it: polygons x1, y1, x2, y2, ... in pixels; COCO's RLE, as lists or compressed; an
image file whose nonzero pixels are the mask; or [H, W] bool."""


def decode(segment: Segment, size: tuple[int, int], where: str) -> Tensor:
    """One mask [H, W] bool of an image of (height, width) `size`; `where` names it in errors.

    Raises:
        VertebraError: if it is of another size, or cannot be decoded.
    """
    if isinstance(segment, Path | Tensor):
        return _whole(segment, size, where)
    x, y, inner = crop(segment, size, where)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return mask


def crop(segment: Segment, size: tuple[int, int], where: str) -> tuple[int, int, Tensor]:
    """One mask cropped to its pixels: x and y of the crop's top left pixel, and the crop [h, w] bool.

    Arguments and errors as for `decode`.
    """
    if isinstance(segment, Path | Tensor):
        return rle.crop_to_pixels(0, 0, _whole(segment, size, where).numpy())
    try:
        annotated = tuple(segment["size"]) if isinstance(segment, dict) else size
        cropped = rle.decode(segment, annotated)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, MemoryError) as error:
        raise VertebraError(f"{where}: a mask cannot be decoded ({first_line(error)}).") from error
    _check(annotated, size, where)
    return cropped


def encode(segment: Segment, size: tuple[int, int], where: str) -> rle.RunLengths:
    """A mask of any form as compressed RLE; arguments and errors as for `decode`."""
    x, y, mask = crop(segment, size, where)
    return rle.encode_mask(mask, (x, y), size)


def _whole(segment: Path | Tensor, size: tuple[int, int], where: str) -> Tensor:
    if isinstance(segment, Path):
        where, values = str(segment), pixels_of(segment)
        segment = torch.from_numpy((values if values.ndim == 2 else values.any(-1)) != 0)
    _check(segment.shape, size, where)
    return segment


def _check(annotated: Sequence[int], size: tuple[int, int], where: str) -> None:
    if tuple(annotated) != tuple(size):
        raise VertebraError(
            f"{where}: a mask of {annotated[0]} x {annotated[1]} pixels lies on an image of {size[0]} x {size[1]} "
            "(height x width)."
        )


def fault(segment: Any, size: tuple[int, int]) -> str:
    """What is wrong with a COCO segmentation of an image of (height, width) `size`, without decoding it.

    Polygons of fewer than three points are accepted beside one of three or more.

    Returns:
        Words such as `its polygon has 2 points, three or more make an area`, or nothing.
    """
    height, width = size
    if height * width > MAX_PIXELS:  # as a file may state it
        return f"its mask is of an image of {width} x {height} pixels; more than {MAX_PIXELS:,} are not decoded"
    if isinstance(segment, dict):
        return _fault_of_runs(segment, size)
    if isinstance(segment, list) and all(isinstance(polygon, list) for polygon in segment):
        return _fault_of_polygons(segment, size)
    return "its segmentation is neither a list of polygons nor run lengths (size and counts)"


def _fault_of_runs(segment: dict[str, Any], size: tuple[int, int]) -> str:
    height, width = size
    if segment.get("size") not in ([height, width], (height, width)):
        return f"its mask is of size {shown(segment.get('size'))}, the image [{height}, {width}] (height, width)"
    counts = segment.get("counts")
    if isinstance(counts, str):
        try:
            counts = rle.unpack(counts).tolist()
        except ValueError:
            return "its run lengths are not in COCO's compressed form"
    if not isinstance(counts, list):
        return "its run lengths are missing (counts)"
    if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
        return "its run lengths are not all whole numbers"
    if sum(counts) != height * width:
        return f"its run lengths add up to {sum(counts)} pixels, not to the image's {height * width}"
    return ""


def _fault_of_polygons(segment: list[list[float]], size: tuple[int, int]) -> str:
    for polygon in segment:
        if len(polygon) % 2:
            return f"a polygon of it has {len(polygon)} numbers, which are no pairs of x and y"
        if not are_numbers(polygon):
            return "a polygon of it has a point that is not a number"
        if reaches_far(polygon, size):  # it would be drawn, for nothing and at great cost
            return f"a polygon of it reaches further beyond the image ({size[1]} x {size[0]} pixels) than its side"
    if segment and all(len(polygon) < 6 for polygon in segment):
        return f"its polygon has {max(len(p) for p in segment) // 2} points, three or more make an area"
    return ""


def reaches_far(points: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a point of x1, y1, x2, y2, ... is further from an image of (height, width) `size` than its side."""
    return any(
        bool(values) and (min(values) < -side or max(values) > 2 * side)
        for values, side in ((points[::2], size[1]), (points[1::2], size[0]))
    )


@dataclass(frozen=True)
class MapInstance:
    """One instance of an instance map."""

    number: int
    """The value of its pixels."""
    segment: rle.RunLengths
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2 in pixels, end exclusive."""
    area: int
    """Pixels."""


def read_instance_map(path: Path) -> tuple[tuple[int, int], list[MapInstance]]:
    """The instances of an image file whose pixels hold instance numbers, 0 for none.

    Returns:
        (height, width), and the instances by their numbers.

    Raises:
        VertebraError: if the file cannot be read, or has colours instead of numbers.
    """
    values = pixels_of(path)
    if values.ndim != 2:
        raise VertebraError(f"{path}: its pixels are colours; the number of an instance is one grey value.")
    height, width = values.shape
    # NaN is not equal to itself either.
    if np.issubdtype(values.dtype, np.floating) and not (values == np.floor(values)).all():
        raise VertebraError(f"{path}: its pixels are not whole; they hold the numbers of instances.")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if low < 0 or high > MAX_INSTANCE:
        raise VertebraError(
            f"{path}: its pixels are from {low:g} to {high:g}; numbers of instances are from 0 to {MAX_INSTANCE:,}."
        )
    flat = values.T.reshape(-1).astype(np.int32)  # column by column, as RLE does
    order = np.flatnonzero(flat)
    order = order[np.argsort(flat[order], kind="stable")]
    numbers, starts = np.unique(flat[order], return_index=True)
    if len(numbers) > MAX_INSTANCES:
        raise VertebraError(f"{path}: its pixels have {len(numbers):,} numbers; at most {MAX_INSTANCES:,} are read.")
    instances = []
    for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):  # one empty part if none
        ends = np.flatnonzero(np.diff(places) > 1)
        first, last = places[np.r_[0, ends + 1]], places[np.r_[ends, len(places) - 1]] + 1
        segment = rle.encode_edges(np.stack([first, last], 1).reshape(-1), (height, width))
        columns, rows = places // height, places % height
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        instances.append(MapInstance(int(number), segment, box, len(places)))
    return (height, width), instances


def outline(mask: Tensor) -> list[float]:
    """One polygon x1, y1, x2, y2, ... along the pixels' borders that fills to exactly this mask, [H, W] bool.

    Further pieces and holes are joined to the first piece by a line there and back, which encloses nothing.
    Empty for a mask without a pixel.
    """
    points: list[tuple[int, int]] = []
    for loop in _loops(mask.numpy()):
        points += [*loop, loop[0]]
        if loop[0] != points[0]:
            points.append(points[0])
    return [float(value) for point in points[:-1] for value in point]


def polygons(mask: Tensor) -> list[list[float]]:
    """Polygons x1, y1, x2, y2, ... along the pixels' borders that together fill to exactly this mask, [H, W] bool.

    None has a hole or touches itself, and each is of pixels that share sides. A part of the mask with holes is cut
    between two rows of pixels at each hole, or at several in one row: COCO's polygons are unions, which hold no holes.
    """
    from scipy import ndimage

    pixels = mask.numpy()
    around, _ = ndimage.label(~np.pad(pixels, 1))  # 1 outside of the mask, then the holes
    cuts = [0]
    for stop, start in sorted((rows.stop - 1, rows.start - 1) for rows, _ in ndimage.find_objects(around)[1:]):
        if start > cuts[-1]:  # the last cut does not open this hole
            cuts.append(stop)
    result = []
    for top, bottom in itertools.pairwise([*cuts, len(pixels)]):
        parts, _ = ndimage.label(pixels[top:bottom])
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            polygon = np.reshape(outline(torch.from_numpy(parts[rows, columns] == number)), (-1, 2))
            result.append(np.add(polygon, (columns.start, top + rows.start)).ravel().tolist())
    return result


def polygon_area(polygon: Sequence[float]) -> float:
    """Square pixels inside a polygon x1, y1, x2, y2, ..., whichever way around."""
    x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The corners of every closed border of a mask [H, W] bool, as x, y; outer borders and holes alike."""
    padded = np.pad(mask.astype(np.int8), 1)
    leads: dict[tuple[int, int], list[tuple[int, int]]] = {}  # from each corner to the next ones, the mask on the right
    down = np.diff(padded, axis=0)[:, 1:-1]
    for y, x in np.argwhere(down).tolist():
        start, end = ((x, y), (x + 1, y)) if down[y, x] > 0 else ((x + 1, y), (x, y))
        leads.setdefault(start, []).append(end)
    across = np.diff(padded, axis=1)[1:-1]
    for y, x in np.argwhere(across).tolist():
        start, end = ((x, y + 1), (x, y)) if across[y, x] > 0 else ((x, y), (x, y + 1))
        leads.setdefault(start, []).append(end)
    loops = []
    while leads:
        start = here = next(iter(leads))
        loop: list[tuple[int, int]] = []
        step = (0, 0)
        while here in leads:
            ends = leads[here]
            end = ends.pop()
            if not ends:
                del leads[here]
            towards = (end[0] - here[0], end[1] - here[1])
            if towards != step:  # a corner, not a point on a side
                loop.append(here)
            here, step = end, towards
            if here == start:
                break
        loops.append(loop)
    return loops


def pixels_of(path: Path) -> np.ndarray:
    """A mask file's values as they are, numbers of a palette's colours included: [H, W], or [H, W, C] colours."""
    with open_image(path) as image:
        decode_image(image)
        if image.mode in ("RGBA", "LA"):  # transparency says nothing
            image = image.convert(image.mode[:-1])
        return np.array(image)
