"""One-to-one matching of a set of predictions to the objects of an image.

Shapes: N predictions, M objects, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchvision.ops import generalized_box_iou

COSTS = (2.0, 5.0, 2.0)
"""Weights of the focal, the L1 and the GIoU cost."""


def match_one_to_one(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of least total cost, every prediction and every object in one pair at most (Hungarian algorithm).

    Args:
        cost: [N, M]; what is not finite counts as larger than all else.

    Returns:
        Indices of predictions, ascending, and of their objects: [min(N, M)] int64 both.
    """
    from scipy.optimize import linear_sum_assignment  # takes as long to import as all of this package

    bounded = torch.nan_to_num(cost.detach().float(), nan=1e9, posinf=1e9, neginf=-1e9)
    rows, columns = linear_sum_assignment(bounded.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


@torch.no_grad()
def set_cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, gt_boxes: Tensor, scale: Tensor, weights: tuple[float, ...] = COSTS
) -> Tensor:
    """Cost of matching every prediction to every object.

    Args:
        logits: [N, K].
        boxes: [N, 4] x1, y1, x2, y2 in input pixels.
        labels: [M] int64, classes of the objects.
        gt_boxes: [M, 4], their boxes.
        scale: [4] width, height, width, height of the image, by which boxes are divided for the L1 cost.
        weights: factors on the focal, the L1 and the GIoU cost.

    Returns:
        [N, M].

    Source: Sparse R-CNN, arXiv:2011.12450, section 3.2 (equation 1); the focal cost as in Deformable DETR,
    arXiv:2010.04159, appendix A.4.
    """
    x = logits[:, labels]
    p = x.sigmoid()
    focal = 0.25 * (1 - p) ** 2 * softplus(-x) - 0.75 * p**2 * softplus(x)
    l1 = torch.cdist(boxes / scale, gt_boxes / scale, p=1)
    return weights[0] * focal + weights[1] * l1 - weights[2] * generalized_box_iou(boxes, gt_boxes)
