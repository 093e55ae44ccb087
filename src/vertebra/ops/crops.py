"""The surroundings of a box as a network's input, and back.

An affine map is a matrix [2, 3] float64 on points (x, y, 1); pixels are counted from 0 at their centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

SUBPIXELS = 32
"""Positions per pixel between which pixels are interpolated, as in OpenCV, with whose crops the published models are
trained."""


def surroundings(box: Sequence[float], size: tuple[int, int], margin: float) -> tuple[float, float, float, float]:
    """The part of an image that a crop of (height, width) `size` shows: its centre x, y, width and height.

    The box x1, y1, x2, y2 is extended to the aspect ratio of `size`, then its sides are multiplied by `margin`.

    Source: Simple Baselines for Human Pose Estimation, arXiv:1804.06208, section 3; its code counts the sides in units
        of 200 pixels.
    """
    x1, y1, x2, y2 = box
    aspect = size[1] / size[0]
    width, height = max(x2 - x1, 1e-3), max(y2 - y1, 1e-3)
    width, height = max(width, height * aspect), max(height, width / aspect)
    return (x1 + x2) / 2, (y1 + y2) / 2, width * margin, height * margin


def crop_matrix(part: Sequence[float], size: tuple[int, int], *, rotation: float = 0.0, udp: bool = False) -> Tensor:
    """From pixels of an image to those of its crop.

    Args:
        part: centre x, y, width and height, as `surroundings` returns them.
        size: (height, width) of the crop in pixels.
        rotation: of the image around that centre, in degrees, clockwise.
        udp: whether the centres of the corner pixels coincide, not the corners.

    Source: with `udp`, The Devil is in the Details, arXiv:1911.07524, section 3.
    """
    x, y, width, height = part
    rows, columns = (size[0] - 1, size[1] - 1) if udp else size
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    linear = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    linear *= torch.tensor([[columns / width], [rows / height]], dtype=torch.float64)
    centre = torch.tensor([[columns / 2], [rows / 2]], dtype=torch.float64)
    return torch.cat((linear, centre - linear @ torch.tensor([[x], [y]], dtype=torch.float64)), 1)


def mirror_matrix(width: int) -> Tensor:
    """From pixels of an image to those of its left-right mirror image."""
    return torch.tensor([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def joined(first: Tensor, then: Tensor) -> Tensor:
    """The map `first`, followed by `then`."""
    return torch.cat((then[:, :2] @ first[:, :2], then[:, :2] @ first[:, 2:] + then[:, 2:]), 1)


def inverse(matrix: Tensor) -> Tensor:
    """The map back."""
    linear = torch.linalg.inv(matrix[:, :2])
    return torch.cat((linear, -linear @ matrix[:, 2:]), 1)


def moved(points: Tensor, matrix: Tensor) -> Tensor:
    """Points [..., 2] after a map, in their own type."""
    return (points.double() @ matrix[:, :2].T + matrix[:, 2]).to(points.dtype)


def warp(image: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """The image [C, H, W] uint8 after an affine map: [C, h, w] uint8 of (h, w) `size`, bilinear, 0 beyond the border.

    Args:
        matrix: from pixels of the image to those of the result.
    """
    back = inverse(matrix)
    height, width = size
    corners = moved(torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]).double(), back)
    limits = torch.tensor([image.shape[-1], image.shape[-2]])
    low = corners.amin(0).floor().long().clamp(min=0).minimum(limits - 1)
    high = (corners.amax(0).floor().long() + 2).minimum(limits).maximum(low + 1)
    seen = image[:, low[1] : high[1], low[0] : high[0]].float()  # what the result shows: converting all takes longer
    columns, rows = ((torch.arange(side)[:, None] * back[:, axis]) for axis, side in ((0, width), (1, height)))
    start = (rows + back[:, 2] - low).mul(SUBPIXELS).float()
    grid = start[:, None] + columns.mul(SUBPIXELS).float()  # [h, w, 2]
    sides = (high - low).float()
    grid.round_().mul_(2 / SUBPIXELS / sides).add_(1 / sides - 1)  # from -1 to 1, at the corners of `seen`
    result = grid_sample(seen[None], grid[None], padding_mode="zeros", align_corners=False)[0]
    return result.round_().clamp_(0, 255).to(torch.uint8)
