"""Instance masks: cropped to RoIs for training, and pasted into the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.ops import roi_align

from vertebra.structures import Masks


def crop_masks(masks: Masks, indices: Tensor, boxes: Tensor, size: int, *, aligned: bool = True) -> Tensor:
    """The fraction of every cell of a box that its mask covers.

    Args:
        masks: of one image.
        indices: [R] int64, the mask of each box.
        boxes: [R, 4] in pixels.
        size: cells per side.
        aligned: as in `multiscale_roi_align`.

    Returns:
        [R, size, size] float32 in 0..1, on the device of `boxes`.
    """
    if not len(boxes):
        return boxes.new_zeros(0, size, size)
    used, position = indices.unique(return_inverse=True)
    rois = torch.cat((position[:, None].to(boxes), boxes), 1)
    dense = masks.take(used.tolist()).dense().to(boxes)  # of the masks that are needed alone
    return roi_align(dense[:, None], rois, size, 1.0, -1, aligned)[:, 0]


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5, rounded: bool = False
) -> Masks:
    """Masks in the image from masks over boxes, bilinear between the cell centres.

    Args:
        probabilities: [N, M, M] in 0..1.
        boxes: [N, 4] in pixels of the image.
        size: (height, width) of the image.
        threshold: least probability of a pixel of the mask.
        rounded: whether boxes are first rounded to whole pixels, as in torchvision.

    Source: Mask R-CNN, arXiv:1703.06870, section 3.1, "Inference".
    """
    masks = Masks(size)
    resample = resample_rounded if rounded else _resample
    for probability, box in zip(probabilities, boxes.tolist(), strict=True):
        corner, crop = resample(probability, box, size)
        masks.corners.append(corner)
        masks.crops.append(crop >= threshold)
    return masks


def _resample(probability: Tensor, box: list[float], size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """(x, y) and [h, w]: the probability at each pixel centre, falling to 0 within half a cell beyond the box.

    Bilinear interpolation is a product with one matrix along each axis, far cheaper than sampling a grid of points.
    """
    (columns, left), (rows, top) = (
        _hat_weights(box[axis], box[axis + 2], probability.shape[1 - axis], size[1 - axis], probability)
        for axis in (0, 1)
    )
    return (left, top), rows @ probability @ columns.T


def _hat_weights(start: float, end: float, cells: int, length: int, like: Tensor) -> tuple[Tensor, int]:
    """Interpolation weights of the cells of `start`..`end` at each pixel, [pixels, cells], and the first pixel."""
    margin = 0.5 * (end - start) / cells  # where the outermost cells have fallen to 0
    first = min(max(0, int(start - margin)), length)
    last = max(first, min(length, int(end + margin) + 1))
    pixels = torch.arange(first, last, device=like.device, dtype=like.dtype) + 0.5
    position = (pixels - start) * (cells / max(end - start, 1e-6)) - 0.5
    distance = (position[:, None] - torch.arange(cells, device=like.device, dtype=like.dtype)).abs()
    return (1 - distance).clamp_(min=0), first


def resample_rounded(probability: Tensor, box: list[float], size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """As torchvision pastes: with a border of one cell, into whole pixels, both ends included."""
    cells = probability.shape[-1]
    scale = (cells + 2) / cells
    corners = torch.tensor(box)
    centre, half = (corners[:2] + corners[2:]) * 0.5, (corners[2:] - corners[:2]) * 0.5 * scale
    x1, y1, x2, y2 = torch.cat((centre - half, centre + half)).to(torch.int64).tolist()
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    resized = interpolate(pad(probability, (1, 1, 1, 1))[None, None], (height, width), mode="bilinear")[0, 0]
    left, top = max(x1, 0), max(y1, 0)
    right, bottom = max(left, min(x2 + 1, size[1])), max(top, min(y2 + 1, size[0]))
    return (left, top), resized[top - y1 : bottom - y1, left - x1 : right - x1]
