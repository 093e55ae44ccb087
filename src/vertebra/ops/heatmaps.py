"""Keypoints as cells of a heatmap: classified over a box, as in Mask R-CNN, or regressed as Gaussians."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

RADIUS = 3
"""Standard deviations after which a Gaussian is cut off."""
CACHED = 1 << 18
"""Cells of heatmaps that a CPU refines at a time: more leave its cache, and the time goes to memory."""


def keypoints_to_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The heatmap cell of each keypoint.

    Args:
        keypoints: [R, K, 3] x, y in pixels, and visibility.
        boxes: [R, 4] in pixels.
        size: cells per side.

    Returns:
        [R, K] int64 row-major cells, and [R, K] bool, whether the keypoint is labelled and inside the box.

    Source: Mask R-CNN, arXiv:1703.06870, section 5.
    """
    corner, sides = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-6)
    points = keypoints[..., :2]
    cells = torch.floor((points - corner) * (size / sides)).long()
    cells = torch.where(points == boxes[:, None, 2:], size - 1, cells)  # the far edge belongs to the last cell
    valid = ((cells >= 0) & (cells < size)).all(2) & (keypoints[..., 2] > 0)
    return (cells[..., 1] * size + cells[..., 0]) * valid, valid


def heatmaps_to_keypoints(logits: Tensor, boxes: Tensor) -> Tensor:
    """The location of each keypoint: the maximum of its heatmap.

    Args:
        logits: [N, K, M, M].
        boxes: [N, 4] in pixels.

    Returns:
        [N, K, 3] float32 x, y in pixels and the logit there.

    Source: as in Detectron and torchvision, the heatmap is resized to the box's pixels, bicubic, before the maximum is
        taken.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    results = []
    for maps, (width, height), (box_width, box_height) in zip(logits, sides.ceil().long().tolist(), sides, strict=True):
        resized = interpolate(maps[None], (height, width), mode="bicubic", align_corners=False)[0]  # [K, h, w]
        score, index = resized.flatten(1).max(1)
        x = (index % width + 0.5) * (box_width / width)
        y = (index // width + 0.5) * (box_height / height)
        results.append(torch.stack((x, y, score), 1))
    if not results:
        return logits.new_zeros(0, logits.shape[1], 3)
    keypoints = torch.stack(results)
    keypoints[..., :2] += boxes[:, None, :2]
    return keypoints


def gaussians(
    keypoints: Tensor, size: tuple[int, int], sigma: float, *, rounded: bool = True, cut: bool = True
) -> tuple[Tensor, Tensor]:
    """Target heatmaps: a Gaussian of height 1 at every labelled keypoint.

    Args:
        keypoints: [B, K, 3] x, y in cells from 0, and visibility.
        size: (height, width) in cells.
        sigma: standard deviation in cells.
        rounded: whether the Gaussian stands on the nearest cell; if not, its centre is the keypoint (unbiased).
        cut: whether it is 0 further than 3 `sigma` from that cell on either axis.

    Returns:
        [B, K, h, w] float32, and [B, K] bool, whether the keypoint is labelled and its Gaussian reaches the map.

    Source: Simple Baselines for Human Pose Estimation, arXiv:1804.06208, section 3; unbiased Distribution-Aware
        Coordinate Representation, arXiv:1910.06278, section 3.2.
    """
    points = keypoints[..., :2].float()
    cells = (points + 0.5).trunc()  # towards 0, as in the authors' code: for keypoints left of the map, not the nearest
    radius = RADIUS * sigma
    limits = torch.tensor([size[1], size[0]], device=points.device)
    nearest = cells if cut else points
    valid = ((nearest - radius < limits) & (nearest + radius + 1 >= 0)).all(2) & (keypoints[..., 2] > 0)
    parts = []
    for axis, side in ((1, size[0]), (0, size[1])):
        positions = torch.arange(side, device=points.device, dtype=torch.float32)
        centre = (cells if rounded else points)[..., axis, None]
        values = torch.exp(-((positions - centre) ** 2) / (2 * sigma**2))  # [B, K, side]
        if cut:
            values = values * ((positions - cells[..., axis, None]).abs() <= radius)
        parts.append(values)
    return parts[0][..., None] * parts[1][..., None, :] * valid[..., None, None], valid


def maxima(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The highest cell of each heatmap [B, K, h, w]: [B, K, 2] float32 x, y, and its value [B, K]. Without a value
    above 0, it is the first cell."""
    values, index = heatmaps.float().flatten(2).max(2)
    index = index * (values > 0)
    width = heatmaps.shape[3]
    return torch.stack((index % width, index // width), 2).float(), values


def quarter_refined(heatmaps: Tensor, cells: Tensor) -> Tensor:
    """Cells [B, K, 2] of maxima, moved by a quarter towards the higher neighbour on each axis.

    Source: Stacked Hourglass Networks, arXiv:1603.06937, section 3.2.
    """
    x, y = cells.long().unbind(2)
    height, width = heatmaps.shape[2:]
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    at = _values_at(heatmaps, x, y)
    slope = torch.stack((at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)), 2)
    return cells + 0.25 * slope.sign() * inside[..., None]


def dark_refined(heatmaps: Tensor, cells: Tensor, kernel: int, *, udp: bool = False) -> Tensor:
    """Cells [B, K, 2] of maxima, moved to the maximum of a Gaussian that has the derivatives of the smoothed heatmap.

    Args:
        heatmaps: [B, K, h, w].
        kernel: odd number of cells over which they are smoothed; that of the Gaussians, 11 for a deviation of 2 and 17
            for one of 3.
        udp: whether neighbouring cells are compared, with the border repeated, as in UDP; else the second derivatives
            reach two cells, and maxima less than two cells from the border stay.

    Source: Distribution-Aware Coordinate Representation, arXiv:1910.06278, section 3.1; The Devil is in the Details,
        arXiv:1911.07524, section 4.
    """
    size = max(1, CACHED // heatmaps[:1].numel()) if heatmaps.device.type == "cpu" and len(heatmaps) else len(heatmaps)
    if len(heatmaps) > size:
        parts = zip(heatmaps.split(size), cells.split(size), strict=True)
        return torch.cat([dark_refined(*part, kernel, udp=udp) for part in parts])
    x, y = cells.long().unbind(2)
    smoothed, scale = _smoothed(heatmaps.float(), kernel)
    values_at = _values_at(smoothed, x, y)

    def smooth(dx: int, dy: int) -> Tensor:
        return values_at(dx, dy) * scale

    def at(dx: int, dy: int) -> Tensor:
        values = smooth(dx, dy)
        return (values.clamp(1e-3, 50) if udp else values.clamp(min=1e-10)).log()

    centre = at(0, 0)
    if udp:
        xx, yy = at(1, 0) - 2 * centre + at(-1, 0), at(0, 1) - 2 * centre + at(0, -1)
        xy = 0.5 * (at(1, 1) - at(1, 0) - at(0, 1) + 2 * centre - at(-1, 0) - at(0, -1) + at(-1, -1))
        eps = torch.finfo(torch.float32).eps
        xx, yy, inside = xx + eps, yy + eps, torch.ones_like(x, dtype=torch.bool)
    else:
        height, width = heatmaps.shape[2:]
        xx, yy = 0.25 * (at(2, 0) - 2 * centre + at(-2, 0)), 0.25 * (at(0, 2) - 2 * centre + at(0, -2))
        xy = 0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1))
        inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    dx, dy = 0.5 * (at(1, 0) - at(-1, 0)), 0.5 * (at(0, 1) - at(0, -1))
    determinant = xx * yy - xy * xy
    step = torch.stack((yy * dx - xy * dy, xx * dy - xy * dx), 2) / determinant[..., None]
    usable = inside & (determinant != 0)
    return torch.where(usable[..., None], cells - step, cells)


def _values_at(maps: Tensor, x: Tensor, y: Tensor) -> Callable[[int, int], Tensor]:
    """A function of an offset: the values [B, K] of maps [B, K, h, w] at that offset from cells [B, K], whose border is
    repeated."""
    flat, (height, width) = maps.flatten(2), maps.shape[2:]

    def at(dx: int, dy: int) -> Tensor:
        index = (y + dy).clamp(0, height - 1) * width + (x + dx).clamp(0, width - 1)
        return flat.gather(2, index[..., None])[..., 0].float()

    return at


def _smoothed(heatmaps: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Heatmaps [B, K, h, w] after a Gaussian filter, and the factor [B, K] on each with which its maximum stays."""
    height, width = heatmaps.shape[2:]
    rows = (heatmaps.reshape(-1, width) @ _filter(kernel, width).to(heatmaps)).view_as(heatmaps)
    smooth = _filter(kernel, height).to(heatmaps) @ rows
    return smooth, heatmaps.amax((2, 3)) / (smooth.amax((2, 3)) + 1e-12)


@functools.lru_cache(16)
def _filter(kernel: int, side: int) -> Tensor:
    """[side, side], symmetric: a Gaussian filter of `kernel` cells as a matrix, with OpenCV's deviation for it."""
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    taps = torch.exp(-((torch.arange(kernel) - kernel // 2) ** 2) / (2 * sigma**2))
    distance = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    weights = torch.where(distance <= kernel // 2, torch.exp(-(distance**2) / (2 * sigma**2)), 0.0)
    return weights / taps.sum()
