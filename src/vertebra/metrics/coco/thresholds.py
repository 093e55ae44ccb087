"""Precision, recall and F1 by score threshold, and the threshold that is stored with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vertebra.metrics.coco.instances import ImageInstances
from vertebra.metrics.coco.match import IGNORED, ignored_objects, match_image

DEFAULT_THRESHOLD = 0.5
"""Score threshold where the data suggests none."""
MIN_F1 = 0.1
"""Least F1 of a threshold that is used. A lower one comes from a few chance hits, and may hide every detection."""


@dataclass
class Sweep:
    """All detections of a data set that are counted, matched within each class."""

    scores: np.ndarray
    """[D] float64, descending."""
    hits: np.ndarray
    """[D] bool, whether a detection has an object."""
    num_objects: int

    def at(self, threshold: float) -> tuple[float | None, float | None, float]:
        """Precision, recall and F1 of the detections of at least that score; None where nothing is counted."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        hits = int(self.hits[:kept].sum())
        return (
            hits / kept if kept else None,
            hits / self.num_objects if self.num_objects else None,
            2 * hits / max(1, kept + self.num_objects),
        )

    def best(self) -> float | None:
        """The threshold with the highest F1, and of equally good ones the highest; None if there is no hit.

        It lies half-way between the lowest score that it keeps and the next lower one (or 0), so that rounding moves no
        detection over it.
        """
        if not self.hits.any():
            return None
        ends = np.append(np.flatnonzero(np.diff(self.scores)), len(self.scores) - 1)  # the last of each score
        f1 = 2 * self.hits.cumsum()[ends] / (ends + 1 + self.num_objects)
        last = ends[f1.argmax()]
        lowest = float(self.scores[last])
        below = float(self.scores[last + 1]) if last + 1 < len(self.scores) else min(0.0, lowest)
        return (lowest + below) / 2


def sweep(images: Sequence[ImageInstances], similarities: Sequence[np.ndarray], iou_type: str) -> Sweep:
    """Matches all detections of `images`; `similarities` [D, N] of each are those of `iou_type`."""
    scores, hits, num_objects = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image, similarity in zip(images, similarities, strict=True):
        matched = match_image(image, np.ones(len(image.detections), bool), similarity, iou_type)
        counted = matched != IGNORED
        scores.append(image.detections.scores[counted])
        hits.append(matched[counted] >= 0)
        num_objects += int((~ignored_objects(image.objects, iou_type)).sum())
    joined = np.concatenate(scores)
    order = np.argsort(-joined, kind="stable")
    return Sweep(joined[order], np.concatenate(hits)[order], num_objects)


def best_threshold(iou_types: Sequence[str], sweep_of: Callable[[str], Sweep]) -> tuple[float, str]:
    """The score threshold to store, and the IoU type that it maximises the F1 of.

    The first type whose best F1 is at least MIN_F1 decides; without one the threshold is DEFAULT_THRESHOLD, `default`.

    Args:
        iou_types: in the order of preference.
        sweep_of: the sweep of a type; called only for types that are needed.
    """
    for iou_type in iou_types:
        scores = sweep_of(iou_type)
        threshold = scores.best()
        if threshold is not None and scores.at(threshold)[2] >= MIN_F1:
            return threshold, iou_type
    return DEFAULT_THRESHOLD, "default"
