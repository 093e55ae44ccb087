"""Occlusion: by how much the score drops if a square of the image is replaced with the mean colour.

The squares overlap by half their side; a pixel has the mean drop of those that cover it.

Source: Visualizing and Understanding Convolutional Networks, arXiv:1311.2901, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vertebra.errors import VertebraError
from vertebra.predict.explain.features import Score, has_scores, normalised
from vertebra.tasks import Task

TITLE = "occlusion"
applies = has_scores
SQUARES = 8
"""Squares, side by side, along the longer side of the input, unless `window` says otherwise."""
BATCH_SIZE = 16
"""Images per forward pass."""


def explain(task: Task, images: Tensor, score: Score, *, window: int | None = None) -> Tensor:
    """As `techniques` says; `window` is the side of a square in input pixels.

    Raises:
        VertebraError: if it is less than 2, or larger than the input.
    """
    height, width = images.shape[2:]
    side = max(2, min(max(height, width) // SQUARES, height, width)) if window is None else window
    if not 2 <= side <= min(height, width):
        raise VertebraError(
            f"window is {side}; it must be 2 pixels at least and at most {min(height, width)}, the shorter side of the "
            "input."
        )
    step = side // 2
    corners = [
        (top, left) for top in range(0, height - side + step, step) for left in range(0, width - side + step, step)
    ]
    drops, covered = images.new_zeros(len(images), height, width), images.new_zeros(height, width)
    with torch.inference_mode():
        whole = score(images)
        for start in range(0, len(corners), BATCH_SIZE):
            part = corners[start : start + BATCH_SIZE]
            occluded = images.repeat(len(part), 1, 1, 1)
            for i, (top, left) in enumerate(part):
                occluded[i * len(images) : (i + 1) * len(images), :, top : top + side, left : left + side] = 0
            scores = score(occluded).unflatten(0, (len(part), -1))
            for (top, left), after in zip(part, scores, strict=True):
                drops[:, top : top + side, left : left + side] += (whole - after)[:, None, None]
                covered[top : top + side, left : left + side] += 1
    return normalised(drops / covered)
