"""RoI features, cropped from a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.ops import roi_align


def roi_levels(boxes: Tensor, num_levels: int, finest_stride: int) -> Tensor:
    """The pyramid level of each RoI: a box of 56 pixels' side at stride 4 has the first, of twice that the next.

    Args:
        boxes: [N, 4] in input pixels.
        num_levels: number of levels.
        finest_stride: stride of the first.

    Returns:
        [N] int64 in 0..num_levels - 1.

    Source: Feature Pyramid Networks, arXiv:1612.03144, equation 1 (224 pixels belong to the level of stride 16).
    """
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    return torch.floor(torch.log2(sides / (14 * finest_stride)).clamp(min=-1) + 1e-6).clamp(0, num_levels - 1).long()


def multiscale_roi_align(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Sequence[Tensor] | Tensor,
    size: int,
    *,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign of every box on the pyramid level that fits its size.

    Args:
        maps: [B, C, h, w] each.
        strides: input pixels per cell of each map.
        boxes: for each image [N_i, 4] in input pixels; or those of all, [B, N, 4].
        size: side of the result in cells.
        sampling_ratio: sampling points per cell and axis; 0 takes as many as the RoI has feature cells.
        aligned: whether pixels are sampled at their centres; torchvision's detectors were trained half a pixel off.

    Returns:
        [sum of N_i, C, size, size], image by image.

    Source: Mask R-CNN, arXiv:1703.06870, section 3.
    """
    if isinstance(boxes, Tensor):  # of any number of images, in exported programs too
        images = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)
        rois = torch.cat((images[:, None, None].expand(-1, boxes.shape[1], 1), boxes), 2).flatten(0, 1)
    else:
        indices = [torch.full_like(box[:, :1], i) for i, box in enumerate(boxes)]
        rois = torch.cat([torch.cat((index, box), 1) for index, box in zip(indices, boxes, strict=True)])
    if len(maps) == 1:
        return align(maps[0], rois, size, 1 / strides[0], sampling_ratio, aligned)
    levels = roi_levels(rois[:, 1:], len(maps), strides[0])
    result = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], size, size)
    for i, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        if torch.compiler.is_compiling():  # no shape may depend on the data: every RoI is pooled from every level
            pooled = align(features, rois, size, 1 / stride, sampling_ratio, aligned)
            result = torch.where((levels == i)[:, None, None, None], pooled, result)
            continue
        selected = torch.where(levels == i)[0]
        if len(selected):
            pooled = align(features, rois[selected], size, 1 / stride, sampling_ratio, aligned)
            result = result.index_copy(0, selected, pooled)
    return result


def align(features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, aligned: bool) -> Tensor:
    """torchvision's roi_align, [B, C, h, w] and [R, 5] -> [R, C, size, size], to rounding; on a CPU ten times as fast.

    torchvision's CPU kernel is one loop on one core. Every cell of a RoI is a weighted sum of rows of the map, taken as
    a table of cells by channels, and torch has a fast operator for that: embedding_bag.
    """
    dtype = features.dtype
    wide = torch.promote_types(dtype, torch.float32)  # half precision would move corners by pixels
    features, rois = features.to(wide), rois.to(wide)
    if features.device.type != "cpu" or wide != torch.float32 or sampling_ratio < 1 or torch.compiler.is_compiling():
        pooled: Tensor = roi_align(features, rois, size, scale, sampling_ratio, aligned)
        return pooled.to(dtype)
    batch, channels, height, width = features.shape
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    start, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    (column, column_weight), (row, row_weight) = (
        _sampling_points(start[:, axis], sides[:, axis], size, sampling_ratio, (width, height)[axis]) for axis in (0, 1)
    )  # [R, size, 2 sampling_ratio]
    offset = rois[:, 0].long().view(-1, 1, 1, 1, 1) * (height * width)
    index = offset + row[:, :, None, :, None] * width + column[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    cells = embedding_bag(
        index.flatten(0, 2).flatten(1), table, mode="sum", per_sample_weights=weight.view(-1, (2 * sampling_ratio) ** 2)
    )
    return cells.view(len(rois), size, size, channels).permute(0, 3, 1, 2).to(dtype)


def _sampling_points(start: Tensor, side: Tensor, cells: int, sampling: int, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the two neighbours of every sampling point and their weights: [R, cells, 2 sampling] both.

    Points further than a cell outside the map have weight 0, the others are moved inside, as in RoIAlign's own code.
    """
    step = (side / cells)[:, None, None]
    cell = torch.arange(cells, device=start.device)[:, None]
    point = torch.arange(sampling, device=start.device) + 0.5
    position = start[:, None, None] + cell * step + point * step / sampling  # [R, cells, sampling]
    weight = ((position >= -1) & (position <= length)) / sampling
    position = position.clamp(0, length - 1)
    low = position.floor()
    high_weight = (position - low) * weight
    neighbours = torch.cat((low, (low + 1).clamp(max=length - 1)), 2).long()
    return neighbours, torch.cat((weight - high_weight, high_weight), 2)
