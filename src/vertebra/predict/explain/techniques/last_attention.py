"""Attention of the last layer: which cells the class token, or the mean of all cells, attends to. It depends on no
answer.

Source: the mean over the heads of what DINO shows of each, arXiv:2104.14294, figure 1.
"""

from __future__ import annotations

from torch import Tensor

from vertebra import attention
from vertebra.predict.explain.features import Score, backbone_of, has_attention, to_pixels
from vertebra.tasks import Task

TITLE = "last attention"
applies = has_attention


def explain(task: Task, images: Tensor, score: Score) -> Tensor:
    """As `techniques` says; VertebraError if the backbone has no attention."""
    backbone = backbone_of(task)
    size = (images.shape[2], images.shape[3])
    last = list(attention.maps(backbone, images, mean=True).values())[-1:]
    return to_pixels(backbone.rollout(last, size, residual=0.0), size, backbone)
