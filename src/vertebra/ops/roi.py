"""Features of regions, cut out of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.ops import roi_align


def region_levels(boxes: Tensor, count: int, finest: int) -> Tensor:
    """The pyramid level of each region: a box of 56 pixels' side at stride 4 has the first, of twice that the next.

    Args:
        boxes: [N, 4] in input pixels.
        count: number of levels.
        finest: stride of the first.

    Returns:
        [N] int64 in 0..count - 1.

    Source: Feature Pyramid Networks, arXiv:1612.03144, equation 1 (224 pixels belong to the level of stride 16).
    """
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    return torch.floor(torch.log2(sides / (14 * finest)).clamp(min=-1) + 1e-6).clamp(0, count - 1).long()


def pool_regions(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Sequence[Tensor],
    size: int,
    *,
    sampling: int = 2,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign of every box on the level that fits its size.

    Args:
        maps: [B, C, h, w] each.
        strides: input pixels per cell of each map.
        boxes: for each picture [N_i, 4] in input pixels.
        size: side of the result in cells.
        sampling: points per cell and axis; 0 takes as many as the region has feature cells.
        aligned: whether cells are sampled at their centres; torchvision's detectors were trained half a cell off.

    Returns:
        [sum of N_i, C, size, size], picture by picture.

    Source: Mask R-CNN, arXiv:1703.06870, section 3.
    """
    numbers = [torch.full_like(each[:, :1], i) for i, each in enumerate(boxes)]
    rois = torch.cat([torch.cat((number, each), 1) for number, each in zip(numbers, boxes, strict=True)])
    if len(maps) == 1:
        return align(maps[0], rois, size, 1 / strides[0], sampling, aligned)
    levels = region_levels(rois[:, 1:], len(maps), strides[0])
    result = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
    for i, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = torch.where(levels == i)[0]
        if len(chosen) or torch.compiler.is_compiling():
            pooled = align(features, rois[chosen], size, 1 / stride, sampling, aligned)
            result = result.index_copy(0, chosen, pooled)
    return result


def align(features: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """torchvision's roi_align, [B, C, h, w] and [R, 5] -> [R, C, size, size], to rounding; on a CPU ten times as fast.

    There torchvision's is one loop on one core. Every cell of a region is a weighted sum of rows of the map, taken as a
    table of cells by channels, and torch has a fast operator for that: embedding_bag.
    """
    kind = features.dtype
    wide = torch.promote_types(kind, torch.float32)  # half precision would move corners by pixels
    features, rois = features.to(wide), rois.to(wide)
    if features.device.type != "cpu" or wide != torch.float32 or sampling < 1 or torch.compiler.is_compiling():
        pooled: Tensor = roi_align(features, rois, size, scale, sampling, aligned)
        return pooled.to(kind)
    batch, channels, height, width = features.shape
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    start, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    (column, across), (row, down) = (
        _points(start[:, axis], sides[:, axis], size, sampling, (width, height)[axis]) for axis in (0, 1)
    )  # [R, size, 2 sampling]
    picture = rois[:, 0].long().view(-1, 1, 1, 1, 1) * (height * width)
    index = picture + row[:, :, None, :, None] * width + column[:, None, :, None, :]
    weight = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    cells = embedding_bag(
        index.flatten(0, 2).flatten(1), table, mode="sum", per_sample_weights=weight.view(-1, (2 * sampling) ** 2)
    )
    return cells.view(len(rois), size, size, channels).permute(0, 3, 1, 2).to(kind)


def _points(start: Tensor, side: Tensor, cells: int, sampling: int, most: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the two neighbours of every point of every cell, and their weights: [R, cells, 2 sampling] both.

    Points further than a cell outside the map count nothing, the others are moved inside, as in RoIAlign's own code.
    """
    step = (side / cells)[:, None, None]
    cell = torch.arange(cells, device=start.device)[:, None]
    point = torch.arange(sampling, device=start.device) + 0.5
    at = start[:, None, None] + cell * step + point * step / sampling  # [R, cells, sampling]
    counted = ((at >= -1) & (at <= most)) / sampling
    at = at.clamp(0, most - 1)
    low = at.floor()
    above = (at - low) * counted
    neighbours = torch.cat((low, (low + 1).clamp(max=most - 1)), 2).long()
    return neighbours, torch.cat((counted - above, above), 2)
