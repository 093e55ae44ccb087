"""Keypoints as cells of a heatmap over a box."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


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
