"""Keypoints of objects, compared with each other.

Shapes: N objects, K keypoints of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def oks_matrix(keypoints: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Object keypoint similarity of every two objects, by the mean of their areas: [N, N] in 0..1.

    Args:
        keypoints: [N, K, 2 or 3] x, y in pixels.
        areas: [N] in square pixels.
        sigmas: [K] standard deviations of the annotations.

    Source: cocodataset.org, "Keypoint evaluation"; there the area is that of the ground truth.
    """
    points = keypoints[..., :2].double()
    squared = (points[:, None] - points[None]).square().sum(3)  # [N, N, K]
    variances = (2 * sigmas.double()) ** 2
    area = (areas.double()[:, None] + areas.double()) / 2 + torch.finfo(torch.float64).eps
    return torch.exp(-squared / variances / area[..., None] / 2).mean(2)


def oks_nms(keypoints: Tensor, scores: Tensor, areas: Tensor, sigmas: Tensor, threshold: float) -> Tensor:
    """The objects that are kept, by descending score: [M] int64. One is removed if its OKS with a kept one is above the
    threshold.

    Args:
        keypoints, areas, sigmas: as for `oks_matrix`.
        scores: [N].

    Source: Towards Accurate Multi-person Pose Estimation in the Wild, arXiv:1701.01779, section 2.1.
    """
    order = scores.argsort(descending=True, stable=True)
    similar = oks_matrix(keypoints[order], areas[order], sigmas) > threshold
    removed = torch.zeros(len(order), dtype=torch.bool)
    kept = []
    for i in range(len(order)):
        if not removed[i]:
            kept.append(i)
            removed |= similar[i]
    return order[torch.tensor(kept, dtype=torch.int64)]
