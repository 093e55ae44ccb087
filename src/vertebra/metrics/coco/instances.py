"""Objects and detections of one image, stored without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor

from vertebra.ops import rle
from vertebra.structures import Masks, Prediction, Target


@dataclass
class Instances:
    """The objects or the detections of one image."""

    labels: np.ndarray
    """[N] int64."""
    boxes: np.ndarray | None
    """[N, 4] float64 x, y, width, height."""
    masks: list[rle.RunLengths] | None
    keypoints: np.ndarray | None
    """[N, K, 3] float64."""
    scores: np.ndarray
    """[N] float64, descending; ones for objects."""
    areas: np.ndarray
    """[N] float64, of objects; zeros for detections."""
    crowd: np.ndarray
    """[N] bool."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ImageInstances:
    """One image's ground truth and detections."""

    id: int | None
    path: str
    objects: Instances
    detections: Instances

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as the masks have it; (1, 1) without masks, where the size has no effect."""
        for mask in (*(self.objects.masks or ()), *(self.detections.masks or ())):
            height, width = mask["size"]
            return height, width
        return 1, 1


def image_instances(prediction: Prediction, target: Target, *, masks: bool) -> ImageInstances:
    """What is compared in one image; both in pixels of the original image.

    Args:
        masks: whether the masks are kept, as run lengths.
    """
    image = ImageInstances(target.id, target.path, _objects(target, masks), _detections(prediction, masks))
    sizes = {tuple(mask["size"]) for part in (image.objects, image.detections) for mask in part.masks or ()}
    assert len(sizes) < 2, f"{target.path}: masks of different sizes, {sizes}"
    return image


def _objects(target: Target, masks: bool) -> Instances:
    assert target.labels is not None
    count = len(target.labels)
    boxes = None if target.boxes is None else _to_xywh(target.boxes)
    encoded = _encode(target.masks, count) if masks else None
    if target.areas is not None:
        areas = _array(target.areas)
    elif encoded is not None:
        areas = np.array([float(coco_mask.area(mask)) for mask in encoded])
    elif target.masks is not None:
        areas = _array(target.masks.areas())
    else:
        assert boxes is not None
        areas = boxes[:, 2] * boxes[:, 3]
    crowd = np.zeros(count, bool) if target.crowd is None else target.crowd.cpu().numpy().astype(bool)
    keypoints = None if target.keypoints is None else _array(target.keypoints)
    return Instances(target.labels.cpu().numpy(), boxes, encoded, keypoints, np.ones(count), areas, crowd)


def _detections(prediction: Prediction, masks: bool) -> Instances:
    assert prediction.labels is not None
    assert prediction.scores is not None
    count = len(prediction.labels)
    encoded = _encode(prediction.masks, count) if masks else None
    boxes = None if prediction.boxes is None else _to_xywh(prediction.boxes)
    keypoints = None if prediction.keypoints is None else _array(prediction.keypoints)
    labels, scores = prediction.labels.cpu().numpy(), _array(prediction.scores)
    return Instances(labels, boxes, encoded, keypoints, scores, np.zeros(count), np.zeros(count, bool))


def _encode(masks: Masks | None, count: int) -> list[rle.RunLengths]:
    assert masks is not None or not count, "instances without masks"
    return [] if masks is None else rle.encode(masks)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _to_xywh(boxes: Tensor) -> np.ndarray:
    """[N, 4] x1, y1, x2, y2 -> x, y, width, height as float64."""
    xywh = _array(boxes).reshape(-1, 4).copy()
    xywh[:, 2:] -= xywh[:, :2]
    return xywh


def gather(images: list[ImageInstances]) -> list[ImageInstances]:
    """The images of all processes; one that several processes had is taken from the first of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return images
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, images)
    first: dict[tuple[int | None, str], int] = {}
    kept = []
    for rank, part in enumerate(parts):
        for image in part:
            key = (image.id, image.path)
            if key == (None, "") or first.setdefault(key, rank) == rank:
                kept.append(image)
    return kept


def in_order(images: Sequence[ImageInstances]) -> list[ImageInstances]:
    """Sorted by id or else path: the order decides between equal scores, so it must not depend on the batches."""
    return sorted(images, key=lambda image: (image.id is None, image.id or 0, image.path))
