"""Boxes as what regression learns: their place and size relative to a box that is near."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from vertebra.structures import Target

OVERLAP = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
"""Losses of boxes by how they overlap: arXiv:1902.09630, and the two of arXiv:1911.08287."""
LARGEST = math.log(1000 / 16)
"""Decoded widths and heights are at most 62.5 times the reference's, so that no exponential overflows."""


def encode(boxes: Tensor, references: Tensor, scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """What regression is to answer for `references` so that `decode` gives `boxes`.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels.
        references: [N, 4] in pixels, with sides above 0.
        scales: factors on dx, dy, dw, dh.

    Returns:
        [N, 4] dx, dy (of the centre, in the reference's sides) and dw, dh (natural logarithms), times `scales`.

    Source: Faster R-CNN, arXiv:1506.01497, equation 2.
    """
    size, reference_size = boxes[:, 2:] - boxes[:, :2], references[:, 2:] - references[:, :2]
    centre, reference_centre = boxes[:, :2] + 0.5 * size, references[:, :2] + 0.5 * reference_size
    deltas = torch.cat(((centre - reference_centre) / reference_size, torch.log(size / reference_size)), 1)
    return deltas * deltas.new_tensor(scales)


def decode(deltas: Tensor, references: Tensor, scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The inverse of `encode`: [N, ..., 4] deltas at [N, 4] references -> [N, ..., 4] boxes, not clipped."""
    references = references.view(len(references), *[1] * (deltas.ndim - 2), 4)
    size = references[..., 2:] - references[..., :2]
    deltas = deltas / deltas.new_tensor(scales)
    centre = references[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * deltas[..., 2:].clamp(max=LARGEST).exp() * size
    return torch.cat((centre - half, centre + half), -1)


def regression_loss(
    kind: str,
    deltas: Tensor,
    boxes: Tensor,
    references: Tensor,
    *,
    beta: float,
    scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """The sum over all boxes of what regression loses.

    Args:
        kind: `smooth_l1`, of the deltas, which is square below `beta`; or a key of OVERLAP, of the decoded boxes.
        deltas: [N, 4] as answered for `references`.
        boxes: [N, 4] that are true.
        references, scales: as for `encode`.
    """
    if kind == "smooth_l1":
        return smooth_l1_loss(deltas, encode(boxes, references, scales), beta=beta, reduction="sum")
    total: Tensor = OVERLAP[kind](decode(deltas, references, scales), boxes, reduction="sum")
    return total


def valid(target: Target) -> tuple[Tensor, Tensor]:
    """The indices [N] of a target's instances that are learned from, and the boxes [M, 4] of its crowds."""
    assert target.boxes is not None
    crowd = target.crowd if target.crowd is not None else torch.zeros(len(target.boxes), dtype=torch.bool)
    crowd = crowd.to(target.boxes.device)
    return torch.where(~crowd)[0], target.boxes[crowd]
