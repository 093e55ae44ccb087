"""Test-time augmentation: predictions on mirrored and scaled views of one image, mapped back and merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vertebra.structures import KeypointSchema, Masks, Prediction

SAME_IOU = 0.5
"""Boxes of a class with at least this IoU are detections of one object."""


def flip(prediction: Prediction, width: int, keypoints: KeypointSchema | None = None) -> Prediction:
    """The prediction for the horizontally flipped image; `width` is the image's, in pixels.

    Moves everything that lies in the image: boxes, masks, keypoints (left and right ones swapped), and maps.
    """
    boxes, masks, points = prediction.boxes, prediction.masks, prediction.keypoints
    if boxes is not None:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if masks is not None:
        corners = [(width - x - crop.shape[1], y) for (x, y), crop in zip(masks.corners, masks.crops, strict=True)]
        masks = Masks(masks.size, corners, [crop.flip(1) for crop in masks.crops])
    if points is not None:
        points = points[:, list(keypoints.flip_indices)] if keypoints and keypoints.flip_indices else points.clone()
        points[..., 0] = width - 1 - points[..., 0]  # keypoints are pixel indices, from 0
    maps = {
        name: value.flip(-1)
        for name in ("semantic", "saliency", "logits", "looks")
        if (value := getattr(prediction, name)) is not None
    }
    return replace(prediction, boxes=boxes, masks=masks, keypoints=points, **maps)


def mean(predictions: Sequence[Prediction]) -> Prediction:
    """The mean of the class probabilities, or of whatever numbers are predicted for the image as a whole."""
    averaged: dict[str, Any] = {
        name: torch.stack([getattr(prediction, name) for prediction in predictions]).mean(0)
        for name in ("probabilities", "tags", "values")
        if all(getattr(prediction, name) is not None for prediction in predictions)
    }
    return replace(predictions[0], **averaged)


def merge(predictions: Sequence[Prediction]) -> Prediction:
    """One Prediction from the detections in several views of an image, all in its pixels.

    Of the boxes of one object, the top-scoring one is kept with its mask and keypoints; its coordinates become the mean
    of them all, weighted by score.
    """
    boxes, scores, labels = (_joined(predictions, name) for name in ("boxes", "scores", "labels"))
    assert boxes is not None
    assert scores is not None
    assert labels is not None
    from torchvision.ops import batched_nms, box_iou  # a second of imports that other merges do not need

    kept = batched_nms(boxes, scores, labels, SAME_IOU)
    same = (box_iou(boxes[kept], boxes) >= SAME_IOU) & (labels[kept][:, None] == labels)  # [kept, all]
    weights = same * scores + 1e-9 * (torch.arange(len(boxes)) == kept[:, None])  # a score may be 0
    voted = weights @ boxes / weights.sum(1, keepdim=True)
    masks = None
    parts = [prediction.masks for prediction in predictions if prediction.masks is not None]
    if len(parts) == len(predictions):
        corners, crops = [c for part in parts for c in part.corners], [c for part in parts for c in part.crops]
        masks = Masks(parts[0].size, corners, crops)
    joined = replace(
        predictions[0],
        boxes=boxes,
        scores=scores,
        labels=labels,
        masks=masks,
        keypoints=_joined(predictions, "keypoints"),
    )
    return replace(joined.take(kept.tolist()), boxes=voted)


def _joined(predictions: Sequence[Prediction], name: str) -> Tensor | None:
    values = [getattr(prediction, name) for prediction in predictions]
    return None if any(value is None for value in values) else torch.cat(values)
