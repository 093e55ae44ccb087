"""Patches along the boundary of a mask: chosen, cut out, and pasted back after refinement.

Patches are squares of one side; their boxes are x1, y1, x2, y2 in pixels, end exclusive. Tensors are on the CPU.

Source: Look Closer to Segment Better: Boundary Patch Refinement for Instance Segmentation, arXiv:2104.05239,
section 3.2, and the authors' code for what the paper leaves open.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from vertebra.structures import Masks

SIDES = (4, 1024)
"""Smallest and largest side of a patch in pixels."""
BAND = 3
"""Pixels on each side of a boundary whose colours are compared."""
CANVAS = 1 << 20
"""Pixels in which boundaries of several masks are processed at a time."""
MOST = 1 << 13
"""Masks that are processed at a time: index and score of a point are sorted as a 16-bit number."""
HALF = np.float32(0.5)
TINY = np.float32(1e-30)
"""What a pixel of the mask outweighs 0 with, where no patch lies; too little to change a sum of probabilities that
reaches 0.5."""


def boundary_scores(mask: Tensor) -> Tensor:
    """How evenly a mask divides the neighbourhood of each pixel.

    Args:
        mask: [H, W] bool.

    Returns:
        [H, W] float32: min(count, 9 - count) / 4.5, where `count` is the number of foreground pixels among the pixel
        and its eight neighbours; those beyond the border of the image are background. 0 off the boundary, at most 8/9.
    """
    count = torch.from_numpy(_counts(np.pad(mask.numpy().astype(np.uint8), 1)))
    return torch.minimum(count, 9 - count) / 4.5


def boundary_patches(
    mask: Tensor,
    size: int = 64,
    iou: float = 0.25,
    *,
    cover: bool = False,
    corner: tuple[int, int] = (0, 0),
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """Boxes of patches along the boundary of a mask, by descending score of the pixel in their centre.

    A patch is centred on every boundary pixel; of two whose IoU is above `iou`, the one with the lower score is
    removed. Those that remain are moved back inside the image: off its last row and column, as in the original.

    Args:
        mask: [h, w] bool, a crop of the image's mask that holds its whole foreground.
        size: side of a patch in pixels, even.
        iou: IoU threshold of non-maximum suppression, in 0..1.
        cover: whether patches are added until every boundary pixel lies in one: those left over are the centres of
            further patches, chosen in the same way, which reach as far as the border of the image.
        corner: (x, y) in the image of the crop's top left pixel.
        image_size: (height, width) of the image; that of `mask` if None.

    Returns:
        [N, 4] int64, N = 0 without a boundary. Along an axis where the image is not longer than a patch, all boxes are
        0..size, and reach beyond the image.
    """
    masks = Masks(image_size or (mask.shape[0], mask.shape[1]), [corner], [mask])
    return batched_boundary_patches(masks, size, iou, cover=cover)[0]


def batched_boundary_patches(masks: Masks, size: int = 64, iou: float = 0.25, *, cover: bool = False) -> list[Tensor]:
    """`boundary_patches` of many masks of an image, many times as fast as one after the other."""
    shapes = [crop.shape for crop in masks.crops]
    boxes: list[Tensor] = []
    while len(boxes) < len(masks):
        stop = start = len(boxes)
        rows, widest = 0, 0
        while stop < len(masks):
            rows, widest = rows + shapes[stop][0] + size, max(widest, shapes[stop][1] + size)
            if stop > start and (rows * widest > CANVAS or stop - start == MOST):
                break
            stop += 1
        some = Masks(masks.size, masks.corners[start:stop], masks.crops[start:stop])
        boxes += _chunk(some, size, iou, cover)
    return boxes


def _chunk(masks: Masks, size: int, iou: float, cover: bool) -> list[Tensor]:
    """The patches of a few masks, whose boundaries are found on one canvas."""
    points, limit, margin = _boundary(masks), (masks.size[1], masks.size[0]), 1
    boxes, indices = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.int64)]
    while points.shape[1]:
        more, mask_indices = _centred(points, size, iou, limit, margin)
        boxes.append(more)
        indices.append(mask_indices)
        if not cover:
            break
        points = points.compress(~_covered(points, more, mask_indices), 1)
        margin = 0
    mask_indices = np.concatenate(indices)
    counts = np.bincount(mask_indices, minlength=len(masks)).tolist()
    order = np.argsort(mask_indices, kind="stable")
    return list(torch.from_numpy(np.concatenate(boxes)[order]).split(counts))


def _boundary(masks: Masks) -> NDArray[Any]:
    """The boundary pixels of masks, by mask and row by row, [4, N] int64: x and y in the image, 4.5 times the score,
    and the index of the mask."""
    height, width = masks.size
    rows = np.array([len(crop) for crop in masks.crops]) + 2  # of the crops and the pixels beside them
    starts = np.cumsum(rows) - rows
    columns = max(crop.shape[1] for crop in masks.crops) + 2
    canvas = np.zeros((int(rows.sum()) + 2, columns + 2), np.uint8)
    for start, crop in zip(starts.tolist(), masks.crops, strict=True):
        canvas[start + 2 : start + 2 + crop.shape[0], 2 : 2 + crop.shape[1]] = crop.numpy()
    count = _counts(canvas).ravel()
    pixels = np.flatnonzero(count - np.uint8(1) < 8)  # count 1..8: 0 wraps round
    row, column = np.divmod(pixels, columns)
    mask_indices = np.repeat(np.arange(len(masks)), rows)[row]
    left, top = (np.array(masks.corners) - 1).T
    x, y = column + left[mask_indices], row + (top - starts)[mask_indices]
    scores = np.minimum(count[pixels], 9 - count[pixels]).astype(np.int64)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return np.stack((x, y, scores, mask_indices)).compress(inside, 1)


def _covered(points: NDArray[Any], boxes: NDArray[Any], box_masks: NDArray[Any]) -> NDArray[Any]:
    """Which points lie in a box of their mask: [N] bool; points and boxes ascend by mask."""
    x, y, _, mask_indices = points
    covered = np.zeros(len(x), bool)
    for index in np.unique(mask_indices):
        part, kept = (slice(*np.searchsorted(values, (index, index + 1))) for values in (mask_indices, box_masks))
        x1, y1, x2, y2 = boxes[kept].T[..., None]
        covered[part] = ((x[part] >= x1) & (x[part] < x2) & (y[part] >= y1) & (y[part] < y2)).any(0)
    return covered


def _counts(around: NDArray[Any]) -> NDArray[Any]:
    """The sum of every 3 x 3 neighbourhood: [h + 2, w + 2] -> [h, w]."""
    rows = around[:-2] + around[1:-1] + around[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _centred(
    points: NDArray[Any], size: int, iou: float, limit: tuple[int, int], margin: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes [M, 4] centred on some of the points, after non-maximum suppression, moved back to end `margin` pixels
    before (width, height) `limit`; and the index of the mask of each."""
    x, y, scores, mask_indices = points
    left, top = (values - size // 2 if side > size else 0 * values for values, side in zip((x, y), limit, strict=True))
    start, box_masks = nms(left, top, scores, mask_indices, size, iou)
    start = start.clip(0, [max(0, side - margin - size) for side in limit])
    return np.concatenate((start, start + size), 1), box_masks


def nms(
    x: NDArray[Any], y: NDArray[Any], scores: NDArray[Any], groups: NDArray[Any], size: int, iou: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Non-maximum suppression of squares with one side in each of several groups, as torchvision's `batched_nms`.

    As the IoU depends on the distance alone, a square that is kept marks the corners of all that it suppresses in a map
    of its group; a step keeps the best of every group.

    Args:
        x, y: [N] integers, the top left corners.
        scores: [N] integers in 0..7.
        groups: [N] integers from 0, ascending.
        size: side of the squares.
        iou: a square is suppressed by one of its group with a higher score, or an equal score and a lower index, if
            their IoU is above it.

    Returns:
        Those that are kept, [M, 2] x, y, and their groups [M], ascending; those of one group by descending score.
    """
    if not len(x):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    suppressed = _overlapping(size, iou)
    reach = len(suppressed) // 2
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    numbers = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(x)))  # of the groups that have squares
    left, top = int(x.min()) - reach, np.minimum.reduceat(y, starts) - reach
    rows = np.maximum.reduceat(y, starts) + 1 - top  # the maps lie below each other, `reach` rows apart
    first_rows = np.cumsum(rows) - rows
    width = int(x.max()) - left + 1 + reach
    marks = np.zeros((int(rows.sum()) + reach, width), bool)
    flat_marks, limits = marks.ravel(), np.append(first_rows * width, marks.size)
    order = np.argsort((8 * numbers + 7 - scores).astype(np.uint16), kind="stable")  # radix sort
    places = ((y + (first_rows - top)[numbers]) * width + x - left)[order]
    rounds = []
    while len(places):
        first = np.searchsorted(places, limits)  # places ascend from group to group
        first = first[:-1][first[:-1] < first[1:]]  # of the groups that have any left
        rounds.append(places[first])
        for place in rounds[-1].tolist():
            row, column = divmod(place, width)
            window = marks[row - reach : row + reach + 1, column - reach : column + reach + 1]
            np.logical_or(window, suppressed, out=window)
        alive = ~flat_marks[places]
        alive[first] = False
        places = places.compress(alive)  # several times as fast as indexing by it
    kept = np.concatenate(rounds)
    numbers = np.searchsorted(limits, kept, "right") - 1
    order = np.argsort(numbers, kind="stable")
    kept, numbers = kept[order], numbers[order]
    row, column = np.divmod(kept, width)
    return np.stack((column + left, row + (top - first_rows)[numbers]), 1), groups[starts][numbers]


@functools.lru_cache(8)
def _overlapping(size: int, iou: float) -> NDArray[Any]:
    """Whether squares have an IoU above `iou`, by the distance of their corners: [2 r + 1, 2 r + 1] bool, with distance
    0 in the centre."""

    def above(intersection: NDArray[Any]) -> NDArray[Any]:
        return (intersection / (2 * size**2 - intersection)).astype(np.float64) > iou

    overlap = np.arange(size, 0, -1, dtype=np.float32)  # along one axis, by the distance
    reach = max(0, int(above(size * overlap).sum()) - 1)
    overlap = overlap[np.abs(np.arange(2 * reach + 1) - reach)]
    return above(overlap[:, None] * overlap)


def cut(image: Tensor, boxes: Tensor, padding: int = 0, out: Tensor | None = None) -> Tensor:
    """The patches of an image: [C, H, W] of any type -> [N, C, size + 2 * padding, size + 2 * padding] of the same.

    Args:
        boxes: [N, 4] int64; may reach beyond the image, which is continued with zeros.
        padding: pixels around each box that are cut out with it.
        out: where the patches are written, and what is returned; a new tensor if None.
    """
    places = boxes.tolist()
    if out is None:
        side = (places[0][2] - places[0][0] if places else 0) + 2 * padding
        out = image.new_empty(len(boxes), len(image), side, side)
    pixels, patches = image.numpy(), out.numpy()  # numpy copies small rectangles several times as fast as torch
    height, width = pixels.shape[1:]
    for patch, (left, top, right, bottom) in zip(patches, places, strict=True):
        x1, y1, x2, y2 = left - padding, top - padding, right + padding, bottom + padding
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
            patch[:] = pixels[:, y1:y2, x1:x2]
        else:
            patch[:] = 0
            inside = pixels[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
            above, before = max(-y1, 0), max(-x1, 0)
            patch[:, above : above + inside.shape[1], before : before + inside.shape[2]] = inside
    return out


def paste(mask: Tensor, boxes: Tensor, probabilities: Tensor, padding: int = 0) -> Tensor:
    """A mask with refined patches: where patches overlap, their mean is taken; outside of all, the mask stays.

    Args:
        mask: [H, W] bool.
        boxes: [N, 4] int64, in pixels of `mask`; what lies beyond it is left out.
        probabilities: [N, size + 2 * padding, size + 2 * padding] float32 in 0..1 of the foreground.
        padding: pixels on each side of a patch that are dropped.

    Returns:
        [H, W] bool, in the patches the pixels whose mean probability is above 0.5.
    """
    refined: NDArray[Any] = mask.numpy().copy()
    if not len(boxes):
        return torch.from_numpy(refined)
    places = boxes.tolist()
    lefts, tops, rights, bottoms = zip(*places, strict=True)
    left, top, right, bottom = min(lefts), min(tops), max(rights), max(bottoms)
    height, width = refined.shape
    y1, y2, x1, x2 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    part = refined[y1:y2, x1:x2]
    total: NDArray[Any] = np.zeros((bottom - top, right - left), np.float32)
    least = np.zeros_like(total)  # that the total must exceed: half of the number of patches
    inside = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
    total[inside] = part * TINY
    size = rights[0] - lefts[0]
    inner = probabilities.numpy()[:, padding : padding + size, padding : padding + size]
    for patch, (x, y, _, _) in zip(inner, places, strict=True):
        for values, term in ((total, patch), (least, HALF)):
            window = values[y - top : y - top + size, x - left : x - left + size]
            np.add(window, term, out=window)
    np.greater(total[inside], least[inside], out=part)
    return torch.from_numpy(refined)


def separation(images: Tensor, masks: Tensor) -> Tensor:
    """How well the boundary of a mask separates colours: the share of the variance of the pixels beside it that lies
    between its two sides, by which Otsu's method chooses a threshold.

    Args:
        images: [N, C, s, s] uint8.
        masks: [N, s, s] bool.

    Returns:
        [N] float32 in 0..1; 0 where there is no boundary or a single colour. Pixels at most `BAND` away from a boundary
        count, in the maximum norm.
    """
    sides = torch.stack((masks, ~masks), 1).float()  # [N, 2, s, s]
    reach = max_pool2d(sides, 2 * BAND + 1, 1, BAND)
    band = sides * reach.flip(1)  # pixels of a side near to the other
    count = band.sum((2, 3))  # [N, 2]
    colours = images.float()
    sums = torch.einsum("nkyx,ncyx->nkc", band, colours)
    squares = torch.einsum("nkyx,ncyx->n", band, colours.square())
    total = squares - sums.sum(1).square().sum(1) / count.sum(1).clamp(min=1)
    within = squares - (sums.square().sum(2) / count.clamp(min=1)).sum(1)
    return torch.where(total > 0, 1 - within / total.clamp(min=1e-6), 0).clamp(0, 1)
