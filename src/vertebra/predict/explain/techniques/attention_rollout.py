"""Attention rollout: how the pixels reach the features through all attention layers. It depends on no answer.

    R = A_L ... A_2 A_1,  A_l = 0.5 W_l + 0.5 I

W_l: attention weights of layer l, the mean over its heads; I: the identity, for the connection past the layer.

Source: Quantifying Attention Flow in Transformers, arXiv:2005.00928, section 3.
"""

from __future__ import annotations

from torch import Tensor

from vertebra import attention
from vertebra.predict.explain.features import Score, backbone_of, has_attention, to_pixels
from vertebra.tasks import Task

TITLE = "attention rollout"
applies = has_attention


def explain(task: Task, images: Tensor, score: Score) -> Tensor:
    """As `techniques` says; VertebraError if the backbone has no attention."""
    backbone = backbone_of(task)
    size = (images.shape[2], images.shape[3])
    weights = list(attention.maps(backbone, images, mean=True).values())
    return to_pixels(backbone.rollout(weights, size), size, backbone)
