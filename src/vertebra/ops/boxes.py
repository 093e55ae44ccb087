"""Box regression: a box's position and size relative to a reference box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import clip_boxes_to_image, complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from vertebra.structures import Target

IOU_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
"""Losses by the overlap of boxes: arXiv:1902.09630, and the two of arXiv:1911.08287."""
MAX_LOG_RATIO = math.log(1000 / 16)
"""Decoded widths and heights are at most 62.5 times the reference's, so that no exponential overflows."""


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Regression deltas of `boxes` relative to `references`, the inverse of `decode`.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels.
        references: [N, 4] in pixels, with sides above 0.
        weights: factors on dx, dy, dw, dh.

    Returns:
        [N, 4] dx, dy (of the centre, in units of the reference's sides) and dw, dh (natural logarithms), times
        `weights`.

    Source: Faster R-CNN, arXiv:1506.01497, equation 2.
    """
    size, reference_size = boxes[:, 2:] - boxes[:, :2], references[:, 2:] - references[:, :2]
    centre, reference_centre = boxes[:, :2] + 0.5 * size, references[:, :2] + 0.5 * reference_size
    deltas = torch.cat(((centre - reference_centre) / reference_size, torch.log(size / reference_size)), 1)
    return deltas * deltas.new_tensor(weights)


def decode(
    deltas: Tensor,
    references: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_log_ratio: float = MAX_LOG_RATIO,
) -> Tensor:
    """The inverse of `encode`: [N, ..., 4] deltas at [N, 4] references -> [N, ..., 4] boxes, not clipped.

    `max_log_ratio` is the largest dw and dh; larger ones are clamped.
    """
    references = references.view(references.shape[0], *[1] * (deltas.ndim - 2), 4)
    size = references[..., 2:] - references[..., :2]
    deltas = deltas / deltas.new_tensor(weights)
    centre = references[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * deltas[..., 2:].clamp(max=max_log_ratio).exp() * size
    return torch.cat((centre - half, centre + half), -1)


def clip(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Boxes [N, 4] clipped to an image of (height, width) `size`, in exported programs [2] int64."""
    if isinstance(size, Tensor):
        return boxes.clamp(min=0).minimum(limits(size[None])[0].to(boxes))
    return clip_boxes_to_image(boxes, size)


def limits(sizes: Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """[B, 4] float32 width, height, width, height of images of (height, width) `sizes`, in exported programs [B, 2]
    int64."""
    return torch.as_tensor(sizes).flip(1).repeat(1, 2).float()


def regression_loss(
    name: str,
    deltas: Tensor,
    boxes: Tensor,
    references: Tensor,
    *,
    beta: float,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Box regression loss, summed over all boxes.

    Args:
        name: `smooth_l1`, of the deltas, quadratic below `beta`; or a key of IOU_LOSSES, of the decoded boxes.
        deltas: [N, 4] predicted for `references`.
        boxes: [N, 4] ground truth.
        references, weights: as for `encode`.
    """
    if name == "smooth_l1":
        return smooth_l1_loss(deltas, encode(boxes, references, weights), beta=beta, reduction="sum")
    total: Tensor = IOU_LOSSES[name](decode(deltas, references, weights), boxes, reduction="sum")
    return total


def centres(boxes: Tensor) -> Tensor:
    """Centres [..., 2] x, y of [..., 4] boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """How central [N, 2] points lie in their [N, 4] boxes: [N], from 0 at the border to 1 in the centre.

    Source: FCOS, arXiv:1904.01355, equation 3.
    """
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(1).sqrt()


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of pairs of boxes, [..., 4] and [..., 4], which are broadcast: [...]."""
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    overlap = sides.clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return overlap / (areas - overlap)


def split_crowd(target: Target) -> tuple[Tensor, Tensor]:
    """Indices [N] of a target's instances that are no crowd regions, and the boxes [M, 4] of the crowd regions."""
    assert target.boxes is not None
    crowd = target.crowd if target.crowd is not None else torch.zeros(len(target.boxes), dtype=torch.bool)
    crowd = crowd.to(target.boxes.device)
    return torch.where(~crowd)[0], target.boxes[crowd]


def inside_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which of [N, 4] boxes lie inside an image of (height, width) `size`: [N] bool."""
    return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] < size[1]) & (boxes[:, 3] < size[0])
