"""Patches along the boundary of a mask: chosen, cut out, and pasted back after refinement.

Patches are squares of one side; their boxes are x1, y1, x2, y2 in pixels, end exclusive. Tensors are on the CPU.

Source: Look Closer to Segment Better: Boundary Patch Refinement for Instance Segmentation, arXiv:2104.05239,
section 3.2, and the authors' code for what the paper leaves open.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d, pad
from torchvision.ops import nms

SIDES = (4, 1024)
"""Smallest and largest side of a patch in pixels."""
BAND = 3
"""Pixels on each side of a boundary whose colours are compared."""


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
    h, w = mask.shape
    height, width = mask.shape if image_size is None else image_size
    around = np.zeros((h + 4, w + 4), np.uint8)
    around[2:-2, 2:-2] = mask.numpy()
    count = _counts(around)  # of the crop and the pixels beside it, which are boundary too
    index = np.flatnonzero(count - np.uint8(1) < 8)  # count 1..8: 0 wraps round
    count = count.ravel()[index]
    y, x = np.divmod(index, w + 2)
    x += corner[0] - 1
    y += corner[1] - 1
    scores = np.minimum(count, 9 - count)
    if min(corner) < 1 or corner[0] + w >= width or corner[1] + h >= height:
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y, scores = x[inside], y[inside], scores[inside]

    boxes = _centred(x, y, scores, size, iou, (width, height), 1)
    while cover:
        x1, y1, x2, y2 = boxes.T[..., None]
        outside = ~((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).any(0)
        x, y, scores = x[outside], y[outside], scores[outside]
        if not len(x):
            break
        boxes = np.concatenate((boxes, _centred(x, y, scores, size, iou, (width, height), 0)))
    return torch.from_numpy(boxes)


def _counts(around: NDArray[Any]) -> NDArray[Any]:
    """The sum of every 3 x 3 neighbourhood: [h + 2, w + 2] -> [h, w]."""
    rows = around[:-2] + around[1:-1] + around[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def _centred(
    x: NDArray[Any], y: NDArray[Any], scores: NDArray[Any], size: int, iou: float, limit: tuple[int, int], margin: int
) -> NDArray[Any]:
    """Boxes [N, 4] centred on some of the points, after non-maximum suppression; moved back to end `margin` pixels
    before (width, height) `limit`."""
    boxes = np.empty((len(x), 4), np.float32)
    for axis, centre in enumerate((x, y)):
        boxes[:, axis] = centre - size // 2 if limit[axis] > size else 0
    boxes[:, 2:] = boxes[:, :2] + size
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float32)), iou).numpy()
    start = np.clip(boxes[kept, :2].astype(np.int64), 0, [max(0, side - margin - size) for side in limit])
    return np.concatenate((start, start + size), 1)


def cut(image: Tensor, boxes: Tensor, padding: int = 0) -> Tensor:
    """The patches of an image: [C, H, W] of any type -> [N, C, size + 2 * padding, size + 2 * padding] of the same.

    Args:
        boxes: [N, 4] int64; may reach beyond the image, which is continued with zeros.
        padding: pixels around each box that are cut out with it.
    """
    if not len(boxes):
        return image.new_zeros(0, len(image), 2 * padding, 2 * padding)
    corners = boxes.numpy()
    side = int(corners[0, 2] - corners[0, 0]) + 2 * padding
    (left, top), (right, bottom) = corners[:, :2].min(0).tolist(), corners[:, 2:].max(0).tolist()
    beyond = (padding - left, right + padding - image.shape[2], padding - top, bottom + padding - image.shape[1])
    x, y = corners[:, 0] - padding, corners[:, 1] - padding
    if max(beyond) > 0:
        before, after, above, below = (max(0, pixels) for pixels in beyond)
        image = pad(image, (before, after, above, below))
        x, y = x + before, y + above
    windows = image.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4)  # views
    return torch.from_numpy(windows.numpy()[y, x])  # numpy copies whole rows, several times as fast as torch's indexing


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
    corners = boxes.numpy()
    (left, top), (right, bottom) = corners[:, :2].min(0).tolist(), corners[:, 2:].max(0).tolist()
    total: NDArray[Any] = np.zeros((bottom - top, right - left), np.float32)
    count: NDArray[Any] = np.zeros(total.shape, np.uint8 if len(boxes) < 256 else np.uint16)
    size = int(corners[0, 2] - corners[0, 0])
    inner = probabilities.numpy()[:, padding : padding + size, padding : padding + size]
    for patch, (x, y) in zip(inner, (corners[:, :2] - (left, top)).tolist(), strict=True):
        total[y : y + size, x : x + size] += patch
        count[y : y + size, x : x + size] += 1
    height, width = refined.shape
    y1, y2, x1, x2 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    total, count = (values[y1 - top : y2 - top, x1 - left : x2 - left] for values in (total, count))
    part = refined[y1:y2, x1:x2]
    part &= count == 0
    part |= total > count * np.float32(0.5)
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
