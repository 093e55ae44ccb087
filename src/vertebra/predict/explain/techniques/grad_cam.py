"""Grad-CAM: feature maps, each weighted by the mean gradient of the score with respect to it.

    relu(sum over k of a_k A_k),  a_k = mean over the cells of dS / dA_k

S: the score; A_k: channel k of a feature map.

Source: Grad-CAM, arXiv:1610.02391, equations 1 and 2.
"""

from __future__ import annotations

from torch import Tensor

from vertebra.predict.explain.features import Score, backbone_of, feature_gradients, has_maps, to_pixels
from vertebra.tasks import Task

TITLE = "Grad-CAM"
applies = has_maps


def explain(task: Task, images: Tensor, score: Score, *, level: int | None = None) -> Tensor:
    """As `techniques` says; `level` as for `feature_gradients`."""
    features, gradients = feature_gradients(task, images, score, level)
    cam = (gradients.mean((2, 3), keepdim=True) * features).sum(1).relu()
    return to_pixels(cam, (images.shape[2], images.shape[3]), backbone_of(task))
