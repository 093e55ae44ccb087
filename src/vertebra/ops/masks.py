"""Instance masks: cut out of regions for training, and put back onto the picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.ops import roi_align

from vertebra.structures import Masks


def crop_masks(masks: Tensor, objects: Tensor, boxes: Tensor, size: int, *, aligned: bool = True) -> Tensor:
    """What share of every cell of a box its object's mask covers.

    Args:
        masks: [N, H, W] bool.
        objects: [R] int64, the mask of each box.
        boxes: [R, 4] in pixels.
        size: cells per side.
        aligned: as in `pool_regions`.

    Returns:
        [R, size, size] float32 in 0..1.
    """
    if not len(boxes):
        return boxes.new_zeros(0, size, size)
    used, place = objects.unique(return_inverse=True)
    rois = torch.cat((place[:, None].to(boxes), boxes), 1)
    return roi_align(masks[used].to(boxes)[:, None], rois, size, 1.0, -1, aligned)[:, 0]


def paste(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5, rounded: bool = False
) -> Masks:
    """Masks on the picture from masks on boxes, bilinear between the cells' centres.

    Args:
        probabilities: [N, M, M] in 0..1.
        boxes: [N, 4] in pixels of the picture.
        size: (height, width) of the picture.
        threshold: least probability of a pixel of the mask.
        rounded: whether boxes are first rounded to whole pixels, as torchvision has it.

    Source: Mask R-CNN, arXiv:1703.06870, section 3.1, "Inference".
    """
    masks = Masks(size)
    place = place_rounded if rounded else _place
    for probability, box in zip(probabilities, boxes.tolist(), strict=True):
        corner, crop = place(probability, box, size)
        masks.corners.append(corner)
        masks.crops.append(crop >= threshold)
    return masks


def _place(probability: Tensor, box: list[float], size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """(x, y) and [h, w]: each pixel's probability where its centre lies, beyond the box falling to 0 in half a cell.

    Bilinear interpolation is a product with one matrix along each axis, far cheaper than sampling a grid of points.
    """
    (across, left), (down, top) = (
        _hats(box[axis], box[axis + 2], probability.shape[1 - axis], size[1 - axis], probability) for axis in (0, 1)
    )
    return (left, top), down @ probability @ across.T


def _hats(start: float, end: float, cells: int, most: int, like: Tensor) -> tuple[Tensor, int]:
    """How much each cell of `start`..`end` counts at each pixel, [pixels, cells], and the first pixel's number."""
    margin = 0.5 * (end - start) / cells  # where the outermost cells have fallen to 0
    first = min(max(0, int(start - margin)), most)
    last = max(first, min(most, int(end + margin) + 1))
    pixels = torch.arange(first, last, device=like.device, dtype=like.dtype) + 0.5
    at = (pixels - start) * (cells / max(end - start, 1e-6)) - 0.5
    near = (at[:, None] - torch.arange(cells, device=like.device, dtype=like.dtype)).abs()
    return (1 - near).clamp_(min=0), first


def place_rounded(probability: Tensor, box: list[float], size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """As torchvision pastes: with a border of one cell, into whole pixels, both ends included."""
    cells = probability.shape[-1]
    scale = (cells + 2) / cells
    corner = torch.tensor(box)
    centre, half = (corner[:2] + corner[2:]) * 0.5, (corner[2:] - corner[:2]) * 0.5 * scale
    x1, y1, x2, y2 = torch.cat((centre - half, centre + half)).to(torch.int64).tolist()
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    grown = interpolate(pad(probability, (1, 1, 1, 1))[None, None], (height, width), mode="bilinear")[0, 0]
    left, top = max(x1, 0), max(y1, 0)
    right, bottom = max(left, min(x2 + 1, size[1])), max(top, min(y2 + 1, size[0]))
    return (left, top), grown[top - y1 : bottom - y1, left - x1 : right - x1]
