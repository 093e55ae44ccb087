"""Test-time augmentation: a picture asked about as it is, mirrored, smaller and larger, and one answer of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from vertebra.structures import Masks, Points, Prediction, Preprocess

SCALES = (0.75, 1.0, 1.25)
"""Of the preprocessing's size, for tasks that find objects."""
SAME = 0.5
"""Intersection over union of boxes from which two objects of a class are one."""


def scaled(preprocess: Preprocess, scale: float) -> Preprocess:
    """The preprocessing with its input made larger or smaller; fixed sizes stay multiples of the divisor."""
    if scale == 1:
        return preprocess
    unit = 1 if preprocess.resize == "shortest" else preprocess.divisor
    height, width = (max(unit, round(side * scale / unit) * unit) for side in preprocess.size)
    return replace(preprocess, size=(height, width))


def mirrored(prediction: Prediction, width: int, points: Points | None = None) -> Prediction:
    """What is said of a picture, for the picture flipped left to right; `width` is the picture's, in pixels."""
    boxes, masks, keypoints = prediction.boxes, prediction.masks, prediction.keypoints
    if boxes is not None:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if masks is not None:
        corners = [(width - x - crop.shape[1], y) for (x, y), crop in zip(masks.corners, masks.crops, strict=True)]
        masks = Masks(masks.size, corners, [crop.flip(1) for crop in masks.crops])
    if keypoints is not None:
        keypoints = keypoints[:, list(points.flip)] if points and points.flip else keypoints.clone()
        keypoints[..., 0] = width - 1 - keypoints[..., 0]  # data sets number the pixels, from 0
    return replace(prediction, boxes=boxes, masks=masks, keypoints=keypoints)


def averaged(views: Sequence[Prediction]) -> Prediction:
    """The mean of class probabilities."""
    probabilities = [view.probabilities for view in views if view.probabilities is not None]
    return replace(views[0], probabilities=torch.stack(probabilities).mean(0))


def merge(views: Sequence[Prediction]) -> Prediction:
    """One Prediction from several of the same picture, in its pixels.

    The surest of the boxes that find one object stays, with its mask and keypoints; its place becomes the mean of
    them all, weighted by score.
    """
    boxes, scores, labels = _all(views, "boxes"), _all(views, "scores"), _all(views, "labels")
    assert boxes is not None
    assert scores is not None
    assert labels is not None
    kept = batched_nms(boxes, scores, labels, SAME)
    together = (box_iou(boxes[kept], boxes) >= SAME) & (labels[kept][:, None] == labels)  # [kept, all]
    weights = together * scores + 1e-9 * (torch.arange(len(boxes)) == kept[:, None])  # a score may be 0
    voted = weights @ boxes / weights.sum(1, keepdim=True)
    masks = None
    if all(view.masks is not None for view in views):
        several = [view.masks for view in views if view.masks is not None]
        masks = Masks(several[0].size, [c for m in several for c in m.corners], [c for m in several for c in m.crops])
    everything = replace(
        views[0], boxes=boxes, scores=scores, labels=labels, masks=masks, keypoints=_all(views, "keypoints")
    )
    return replace(everything.take(kept.tolist()), boxes=voted)


def _all(views: Sequence[Prediction], name: str) -> Tensor | None:
    values = [getattr(view, name) for view in views]
    return None if any(value is None for value in values) else torch.cat(values)
