"""Coarse masks where no model has predicted any: ground truth masks, degraded at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from vertebra.data.augment import happens, uniform
from vertebra.data.segments import polygons
from vertebra.ops import rle

MIN_IOU = 0.5
"""IoU with its ground truth mask that a coarse mask exceeds."""
REACH = 0.04
"""Most pixels that a mask grows or shrinks by on each side, times the square root of its area; at least one pixel."""
CORNERS = (0.1, 0.3)
"""Distance of the corners of a simplified outline, times the square root of the area; at least two pixels."""
CELLS = (14, 28)
"""Cells per side of the grid over the mask's box, as the mask heads of Mask R-CNN predict them."""

Cropped = tuple[int, int, Tensor]
"""x and y in the image of a crop's top left pixel, and the crop [h, w] bool."""


def degrade(x: int, y: int, mask: Tensor, size: tuple[int, int]) -> Cropped:
    """A mask as a model might predict it, by torch's random numbers: cropped, as the mask that is given.

    It is eroded or dilated by a square, by up to REACH; with a probability of one half, its outline becomes a polygon
    of fewer corners, at distances of CORNERS; then it is downsampled to a grid of CELLS over its box and upsampled.

    Args:
        x, y: of the mask's top left pixel in the image.
        mask: [h, w] bool, the bounding box of its pixels, of which there is at least one.
        size: (height, width) of the image.

    Returns:
        A mask of which the IoU with the given one is above MIN_IOU; that one itself where degrading destroys it.
    """
    scale = math.sqrt(int(mask.sum()))
    reach = max(1, round(REACH * scale))
    margin = pad(mask, (reach,) * 4)
    coarse = _grown(margin, int(torch.randint(-reach, reach + 1, ())))
    if happens(0.5):
        coarse = _simplified(coarse, max(2.0, scale * uniform(*CORNERS)))
    coarse = _resampled(coarse, int(torch.randint(CELLS[0], CELLS[1] + 1, ())))
    left, top = x - reach, y - reach  # of `margin` in the image
    inside = slice(max(0, -top), max(0, size[0] - top)), slice(max(0, -left), max(0, size[1] - left))
    visible = torch.zeros_like(coarse)
    visible[inside] = coarse[inside]
    if int((visible & margin).sum()) <= MIN_IOU * int((visible | margin).sum()):
        return x, y, mask
    return rle.crop_to_pixels(left, top, visible.numpy())


def _grown(mask: Tensor, radius: int) -> Tensor:
    """[h, w] bool dilated by a square of 2 * radius + 1 pixels, or eroded where `radius` is negative."""
    values, side = mask.float()[None, None], 2 * abs(radius) + 1
    sign = 1 if radius > 0 else -1
    return (sign * max_pool2d(sign * values, side, 1, abs(radius)))[0, 0] > 0.5


def _simplified(mask: Tensor, distance: float) -> Tensor:
    """[h, w] bool with each of its outlines drawn through points at about `distance` pixels along it."""
    drawn = torch.zeros_like(mask)
    for polygon in polygons(mask):
        points = torch.tensor(polygon, dtype=torch.float64).view(-1, 2)
        sides = (points.roll(-1, 0) - points).abs().sum(1)  # each is along an axis
        ends = sides.cumsum(0)
        count = max(4, round(float(ends[-1]) / distance))
        along = (torch.arange(count) + torch.rand(())) * (ends[-1] / count)
        index = torch.searchsorted(ends, along).clamp(max=len(points) - 1)
        share = 1 - (ends[index] - along) / sides[index]
        corners = torch.lerp(points[index], points.roll(-1, 0)[index], share[:, None])
        x, y, part = rle.decode([corners.flatten().tolist()], (mask.shape[0], mask.shape[1]))
        drawn[y : y + part.shape[0], x : x + part.shape[1]] |= part
    return drawn


def _resampled(mask: Tensor, cells: int) -> Tensor:
    """[h, w] bool through a grid of `cells` x `cells` over the box of its pixels."""
    x, y, crop = rle.crop_to_pixels(0, 0, mask.numpy())
    if not crop.numel():
        return mask
    grid = interpolate(crop.float()[None, None], (cells, cells), mode="bilinear", antialias=True)
    result = torch.zeros_like(mask)
    result[y : y + crop.shape[0], x : x + crop.shape[1]] = interpolate(grid, crop.shape, mode="bilinear")[0, 0] >= 0.5
    return result
