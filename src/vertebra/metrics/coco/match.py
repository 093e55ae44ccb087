"""Assignment of detections to objects, by COCO's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from vertebra.metrics.coco.instances import ImageInstances, Instances

MIN_SIMILARITY = 0.5
"""Least similarity (IoU, or OKS for keypoints) of a detection and its object."""
UNMATCHED, IGNORED = -1, -2
"""In place of an object's index: the detection has no object; its object is not counted, so neither is it."""


def match(
    similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, min_similarity: float = MIN_SIMILARITY
) -> np.ndarray:
    """The object of each detection; detections choose in the order of their scores.

    Args:
        similarity: [D, N], detections by descending score.
        ignored: [N] bool, objects that are chosen only if no other is similar enough.
        crowd: [N] bool, ignored objects that any number of detections may have.
        min_similarity: least similarity of a match.

    Returns:
        [D] int64: index of the object, UNMATCHED, or IGNORED if it is an ignored one.

    Source: as COCO's evaluation (cocodataset.org).
    """
    matched = np.full(len(similarity), UNMATCHED)
    free = np.ones(similarity.shape[1], bool)
    for i in np.flatnonzero((similarity >= min_similarity).any(1)):
        for candidates, value in ((free & ~ignored, None), (free & ignored, IGNORED)):
            row = np.where(candidates, similarity[i], -1.0)
            best = int(row.argmax())
            if row[best] >= min_similarity:
                matched[i] = best if value is None else value
                free[best] = crowd[best]
                break
    return matched


def ignored_objects(objects: Instances, iou_type: str) -> np.ndarray:
    """[N] bool: objects that are not counted: crowds and, by keypoints, objects without any."""
    if iou_type != "keypoints" or not len(objects):
        return objects.crowd
    assert objects.keypoints is not None
    return objects.crowd | ~(objects.keypoints[:, :, 2] > 0).any(1)


def similarity_matrix(image: ImageInstances, iou_type: str, sigmas: np.ndarray) -> np.ndarray:
    """Similarity of every detection to every object, [D, N] in 0..1; to a crowd, the fraction of the detection in it.

    Args:
        iou_type: one of IOU_TYPES.
        sigmas: [K], of the keypoints.

    Source: boundaries: Boundary IoU, arXiv:2103.16562.
    """
    detections, objects = image.detections, image.objects
    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    crowd = objects.crowd.astype(int).tolist()
    if iou_type == "box":
        return np.asarray(coco_mask.iou(detections.boxes, objects.boxes, crowd))
    if iou_type == "keypoints":
        return oks(detections, objects, sigmas)
    assert detections.masks is not None
    assert objects.masks is not None
    similarity = np.asarray(coco_mask.iou(detections.masks, objects.masks, crowd))
    if iou_type == "boundary":
        edges = [[coco_mask.rleToBoundary(mask) for mask in masks] for masks in (detections.masks, objects.masks)]
        boundary = np.minimum(similarity, np.asarray(coco_mask.iou(*edges, crowd)))
        similarity = np.where(objects.crowd, similarity, boundary)
    return similarity


def oks(detections: Instances, objects: Instances, sigmas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity: [D, N].

    To an object without keypoints it is computed from the distances by which the detection's keypoints lie outside the
    object's box, enlarged by its own width and height on each side.

    Source: cocodataset.org, "Keypoint evaluation".
    """
    assert detections.keypoints is not None
    assert objects.keypoints is not None
    similarity = np.zeros((len(detections), len(objects)))
    for j, (keypoints, area) in enumerate(zip(objects.keypoints, objects.areas, strict=True)):
        labelled = keypoints[:, 2] > 0
        if labelled.any():
            offset = detections.keypoints[:, labelled, :2] - keypoints[labelled, :2]  # [D, labelled, 2]
        else:
            assert objects.boxes is not None
            x, y, w, h = objects.boxes[j]
            low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
            labelled = np.ones(len(keypoints), bool)
            points = detections.keypoints[:, :, :2]
            offset = np.maximum(low - points, 0) + np.maximum(points - high, 0)
        distance = (offset**2).sum(2) / (2 * sigmas[labelled]) ** 2 / (area + np.spacing(1)) / 2
        similarity[:, j] = np.exp(-distance).mean(1)
    return similarity


def match_image(image: ImageInstances, kept: np.ndarray, similarity: np.ndarray, iou_type: str) -> np.ndarray:
    """The object of its own class that each detection in `kept` [D] bool has: [D] as `match` returns it."""
    detections, objects = image.detections, image.objects
    same = (detections.labels[:, None] == objects.labels) & kept[:, None]
    return match(np.where(same, similarity, 0.0), ignored_objects(objects, iou_type), objects.crowd)


def confusion_matrix(
    images: Sequence[ImageInstances],
    similarities: Sequence[np.ndarray],
    threshold: float,
    num_classes: int,
    iou_type: str,
) -> np.ndarray:
    """Counts of (object's class, detection's class) at a score threshold: [num_classes + 1, num_classes + 1] int64, the
    last row and column being the background.

    Detections are first matched to objects of their own class, as for average precision; those without one may then
    take a free object of another class.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    background = num_classes
    for image, similarity in zip(images, similarities, strict=True):
        detections, objects = image.detections, image.objects
        kept = detections.scores >= threshold
        matched = match_image(image, kept, similarity, iou_type)
        free = ~ignored_objects(objects, iou_type)
        free[matched[matched >= 0]] = False
        unmatched = kept & (matched == UNMATCHED)
        remaining = np.where(unmatched[:, None] & free, similarity, 0.0)
        confused = match(remaining, np.zeros(len(objects), bool), objects.crowd)
        for i in np.flatnonzero(kept & (matched != IGNORED)):
            index = matched[i] if matched[i] >= 0 else confused[i]
            matrix[objects.labels[index] if index >= 0 else background, detections.labels[i]] += 1
        free[confused[confused >= 0]] = False
        np.add.at(matrix[:, background], objects.labels[free], 1)
    return matrix
