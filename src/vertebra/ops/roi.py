"""Features of regions, cut out of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
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
        return roi_align(maps[0], rois, size, 1 / strides[0], sampling, aligned)
    levels = region_levels(rois[:, 1:], len(maps), strides[0])
    result = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
    for i, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = torch.where(levels == i)[0]
        if len(chosen) or torch.compiler.is_compiling():
            pooled = roi_align(features, rois[chosen].to(features.dtype), size, 1 / stride, sampling, aligned)
            result = result.index_copy(0, chosen, pooled)
    return result
