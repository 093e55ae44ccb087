"""CocoMetrics: what tasks that predict instances are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vertebra.metrics.coco.evaluator import (
    IOU_TYPES,
    evaluate,
    keypoint_sigmas,
    mean_precision,
    number_names,
    precision_curve,
    prefix,
)
from vertebra.metrics.coco.instances import ImageInstances, Instances, gather, image_instances, in_order
from vertebra.metrics.coco.match import UNMATCHED, confusion_matrix, ignored_objects, match_image, similarity_matrix
from vertebra.metrics.coco.thresholds import DEFAULT_THRESHOLD, Sweep, best_threshold, sweep
from vertebra.structures import KeypointSchema, Prediction, Target

MAX_CONFUSION = 1000
"""Classes up to which metrics hold a confusion matrix: of 30,000 it has 900,000,000 numbers."""


class CocoMetrics:
    """Average precision as COCO defines it, and the best score threshold, over a data set and over processes.

    Source: COCO's detection and keypoint evaluation (cocodataset.org); boundaries: Boundary IoU, arXiv:2103.16562.
    """

    def __init__(
        self,
        num_classes: int,
        iou_types: Sequence[str],
        keypoints: KeypointSchema | None = None,
        *,
        threshold: float | None = None,
        sigmas: Sequence[float] = (),
        max_detections: int = 100,
    ) -> None:
        """
        Args:
            num_classes: without the background.
            iou_types: of IOU_TYPES; F1, confusion and `row` are those of the first one.
            keypoints: for type `keypoints`.
            threshold: score threshold of `row`; 0.5 if None.
            sigmas: standard deviations of the data's keypoint annotations, one each; those of `keypoints`, else
                COCO's, if empty.
            max_detections: top-scoring detections of each image and class that COCO's numbers count: 100 as in COCO, or
                more if images hold more objects. Of keypoints it is always 20.
        """
        assert iou_types, "no IoU type"
        assert set(iou_types) <= set(IOU_TYPES), iou_types
        self.num_classes = num_classes
        self.iou_types = tuple(iou_types)
        self.threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        self.max_detections = max_detections
        self.keypoints = keypoints
        self.sigmas = keypoint_sigmas(keypoints, sigmas)
        self.images: list[ImageInstances] = []
        numbers = {iou_type: number_names(iou_type, max_detections) for iou_type in iou_types}
        self.names: Mapping[str, str] = {
            **{key: name for iou_type in iou_types for key, name in numbers[iou_type][:3]},
            "f1": "F1",
            "precision": "precision",
            "recall": "recall",
            "threshold": "best threshold",
            **{key: name for iou_type in iou_types for key, name in numbers[iou_type][3:]},
        }

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Adds images; predictions and targets in pixels of the original images. Masks are kept as run lengths."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.images.append(self._image(prediction, target))

    def reset(self) -> None:
        self.images = []

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """One image's counts at `threshold`: `objects`, `true_positives`, `missed` objects and `false_positives`; as
        `error`, 1 - F1. Crowds are not counted, nor detections matched to them."""
        return self._row(self._image(prediction, target))

    def rows(self) -> list[dict[str, Any]]:
        """`row` of every image so far, in their order."""
        return [self._row(image) for image in self.images]

    def compute(self) -> dict[str, Any]:
        """COCO's numbers for each IoU type, such as `box_ap`, all in 0..1; those that COCO leaves undefined, because
        there are no such objects, are left out. Small objects have an area below 32 x 32 pixels, large ones at least
        96 x 96: by Target.areas, else by the area of the mask, else of the box.

        Further, at similarity 0.5:

        - `threshold`: the score threshold with the best F1 of the first IoU type; where that F1 is below 0.1, the best
          one of the next type whose F1 is not, else 0.5. `threshold_from` is that type, or `default`.
        - `f1`, `precision` and `recall` of the first type at the threshold, over all detections.
        - `confusion`, with at most MAX_CONFUSION classes: [classes + 1, classes + 1] counts at the threshold, a row per
          class of objects; the last row and column are the background.
        - `per_class`: lists with an entry per class, None where it is undefined.
        - `pr`: by type and IoU (`50`, `75`) the precision at recall 0, 0.01, ..., 1 as `mean` over the classes and for
          each of the `classes`.
        - `curve`: `precision`, `recall` and `f1` at each of 101 values of `score`, from 0 to 1, or further if scores go
          beyond.
        """
        images, used = _renumbered(in_order(gather(self.images)))

        def of_all(values: Sequence[Any], missing: Any = None) -> list[Any]:
            """An entry per class, from those of the classes that occur."""
            entries = [missing] * self.num_classes
            for label, value in zip(used.tolist(), values, strict=True):
                entries[label] = value
            return entries

        values: dict[str, Any] = {}
        per_class: dict[str, list[Any]] = {}
        curves: dict[str, Any] = {}
        for iou_type in self.iou_types:
            result = evaluate(images, iou_type, len(used), sigmas=self.sigmas, max_detections=self.max_detections)
            names = [key for key, _ in number_names(iou_type, self.max_detections)]
            values |= {key: float(value) for key, value in zip(names, result.stats, strict=True) if value > -1}
            precision = result.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]: all sizes, most detections
            classes = range(len(used))
            per_class[f"{prefix(iou_type)}_ap"] = of_all([mean_precision(precision[:, :, k]) for k in classes])
            per_class[f"{prefix(iou_type)}_ap50"] = of_all([mean_precision(precision[0, :, k]) for k in classes])
            curves[iou_type] = {"50": precision_curve(precision[0]), "75": precision_curve(precision[5])}
            for curve in curves[iou_type].values():
                curve["classes"] = of_all(curve["classes"])
        first = self.iou_types[0]
        similarities = self._similarities(images, first)
        scores = sweep(images, similarities, first)

        def sweep_of(iou_type: str) -> Sweep:
            return scores if iou_type == first else sweep(images, self._similarities(images, iou_type), iou_type)

        threshold, threshold_from = best_threshold(self.iou_types, sweep_of)
        confusion = confusion_matrix(images, similarities, threshold, len(used), first)
        objects, detections, hits = confusion.sum(1)[:-1], confusion.sum(0)[:-1], confusion.diagonal()[:-1]
        ratios = {"precision": detections, "recall": objects}
        for name, counts in ratios.items():
            per_class[name] = of_all([int(h) / int(n) if n else None for h, n in zip(hits, counts, strict=True)])
        per_class["objects"] = of_all(objects.tolist(), 0)
        at_threshold = dict(zip(("precision", "recall", "f1"), scores.at(threshold), strict=True))
        return {
            **values,
            **{name: value for name, value in at_threshold.items() if value is not None},
            "threshold": threshold,
            "threshold_from": threshold_from,
            **({"confusion": self._widened(confusion, used)} if self.num_classes <= MAX_CONFUSION else {}),
            "per_class": per_class,
            "pr": curves,
            "curve": _curve(scores),
        }

    def _widened(self, confusion: np.ndarray, used: np.ndarray) -> list[list[int]]:
        """The confusion matrix of all classes, from that of the ones that occur."""
        matrix = np.zeros((self.num_classes + 1, self.num_classes + 1), np.int64)
        rows = [*used.tolist(), self.num_classes]
        matrix[np.ix_(rows, rows)] = confusion
        return matrix.tolist()

    def _image(self, prediction: Prediction, target: Target) -> ImageInstances:
        return image_instances(prediction, target, masks="mask" in self.iou_types or "boundary" in self.iou_types)

    def _similarities(self, images: Sequence[ImageInstances], iou_type: str) -> list[np.ndarray]:
        return [similarity_matrix(image, iou_type, self.sigmas) for image in images]

    def _row(self, image: ImageInstances) -> dict[str, Any]:
        iou_type = self.iou_types[0]
        objects = int((~ignored_objects(image.objects, iou_type)).sum())
        kept = image.detections.scores >= self.threshold
        similarity = similarity_matrix(image, iou_type, self.sigmas)
        matched = match_image(image, kept, similarity, iou_type)[kept]
        true_positives = int((matched >= 0).sum())
        false_positives = int((matched == UNMATCHED).sum())
        missed = objects - true_positives
        wrong = missed + false_positives
        return {
            "objects": objects,
            "true_positives": true_positives,
            "missed": missed,
            "false_positives": false_positives,
            "threshold": self.threshold,
            "error": wrong / (2 * true_positives + wrong) if wrong else 0.0,
        }


def _renumbered(images: Sequence[ImageInstances]) -> tuple[list[ImageInstances], np.ndarray]:
    """The images with their classes numbered without gaps, and the classes that occur, ascending: one at least.

    COCO's precisions take 100 kB per class, and a class without objects and detections has none.
    """
    labels = [part.labels for image in images for part in (image.objects, image.detections)]
    used = np.unique(np.concatenate([*labels, np.zeros(0, np.int64)]))
    used = used if len(used) else np.zeros(1, np.int64)

    def renumbered(part: Instances) -> Instances:
        return replace(part, labels=np.searchsorted(used, part.labels))

    return [
        replace(image, objects=renumbered(image.objects), detections=renumbered(image.detections)) for image in images
    ], used


def _curve(scores: Sweep) -> dict[str, list[Any]]:
    """Precision, recall and F1 at 101 thresholds."""
    low, high = min([0.0, *scores.scores[-1:]]), max([1.0, *scores.scores[:1]])  # some tools' scores exceed 0..1
    thresholds = np.linspace(low, high, 101).tolist()
    rows = [scores.at(threshold) for threshold in thresholds]
    return {
        "score": thresholds,
        **{name: [row[i] for row in rows] for i, name in enumerate(("precision", "recall", "f1"))},
    }
