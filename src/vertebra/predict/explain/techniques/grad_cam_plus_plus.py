"""Grad-CAM++: Grad-CAM whose mean counts cells with a positive gradient, so that several objects of a class show.

    relu(sum over k of w_k A_k),  w_k = sum over the cells of a_k relu(G_k),  a_k = G_k^2 / (2 G_k^2 + sum(A_k) G_k^3)

G_k = dS / dA_k: the gradient of the score S with respect to channel k of a feature map; sum(A_k): over its cells.

Source: Grad-CAM++, arXiv:1710.11063, equations 10 and 19, for the exponential of the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vertebra.predict.explain.features import Score, backbone_of, feature_gradients, has_maps, to_pixels
from vertebra.tasks import Task

TITLE = "Grad-CAM++"
applies = has_maps


def explain(task: Task, images: Tensor, score: Score, *, level: int | None = None) -> Tensor:
    """As `techniques` says; `level` as for `feature_gradients`."""
    features, gradients = feature_gradients(task, images, score, level)
    denominator = 2 + features.sum((2, 3), keepdim=True) * gradients  # both sides divided by the square
    share = torch.where((gradients != 0) & (denominator != 0), 1 / denominator, 0.0)
    weights = (share * gradients.relu()).sum((2, 3), keepdim=True)
    cam = (weights * features).sum(1).relu()
    return to_pixels(cam, (images.shape[2], images.shape[3]), backbone_of(task))
