"""Metrics of poses: COCO's average precision by OKS, and errors of landmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.coco.evaluator import keypoint_sigmas
from vertebra.metrics.coco.instances import image_instances
from vertebra.metrics.coco.match import oks
from vertebra.structures import KeypointSchema, Prediction, Target

FAILURE = 0.1
"""NME above which an object counts as a failure, and up to which the area under the curve is taken."""
MIN_IOU = 0.5
"""Least IoU of the boxes of a prediction and its object."""
PAIRS = {29: (8, 9), 68: (36, 45), 98: (60, 72)}
"""Of published sets of facial landmarks, by their number of points (COFW, 300W, WFLW): those whose distance normalises
errors: the pupils, else the outer corners of the eyes."""


class Merges(Protocol):
    """What the metrics need of a task."""

    config: Any
    classes: tuple[str, ...]

    def merge_objects(self, predictions: Sequence[Prediction], size: tuple[int, int]) -> Prediction: ...


@dataclass
class Errors:
    """The distances of the keypoints of one object."""

    pixels: np.ndarray
    """[K] float64, NaN where the keypoint is not labelled."""
    scale: float
    """Pixels by which they are divided."""

    @property
    def nme(self) -> float:
        """Normalised mean error."""
        return float(np.nanmean(self.pixels)) / self.scale


class PoseMetrics:
    """Average precision by OKS of the objects of each image, which are predicted one by one, and normalised mean errors
    of their keypoints; over a data set and over processes.

    Source: cocodataset.org, "Keypoint evaluation"; NME, failure rate and AUC as in 300 Faces in-the-Wild and WFLW
    (arXiv:1805.10483, section 4.1).
    """

    def __init__(self, task: Merges, *, threshold: float | None = None, sigmas: Sequence[float] = ()) -> None:
        """
        Args:
            task: merges the objects of an image; its config has `keypoints` and `error_pair`.
            threshold, sigmas: as for CocoMetrics.
        """
        self.task = task
        self.schema: KeypointSchema = task.config.keypoints
        self.coco = CocoMetrics(len(task.classes), ("keypoints",), self.schema, threshold=threshold, sigmas=sigmas)
        self.sigmas = keypoint_sigmas(self.schema, sigmas)
        self.pair = _pair(self.schema, task.config.error_pair)
        numbers = list(self.coco.names.items())
        self.names: Mapping[str, str] = {
            **dict(numbers[:3]),
            "pixel_error": "mean error in pixels",
            "nme": "NME",
            "failure_rate": f"failure rate at NME {FAILURE:g}",
            "auc": f"AUC up to NME {FAILURE:g}",
            **dict(numbers[3:]),
        }
        self.reset()

    @property
    def threshold(self) -> float:
        """Score threshold of F1, precision and recall."""
        return self.coco.threshold

    def reset(self) -> None:
        self.objects: list[tuple[Prediction, Target]] = []

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Adds objects: of each the prediction and the ground truth of its whole image, both in pixels of that image.

        A prediction without objects stands for an image without boxes.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            self.objects.append((prediction, replace(target, masks=None, semantic=None)))

    def compute(self) -> dict[str, Any]:
        """As CocoMetrics, and of the annotated objects that are predicted, each by the prediction with the highest
        score among those whose box fits:

        - `pixel_error`: mean distance of labelled keypoints in pixels.
        - `nme`: mean over objects of the mean distance, divided by that of `error_pair` or the square root of the area
          of the box.
        - `failure_rate`: share of objects whose NME is above 0.1.
        - `auc`: area under the share of objects by their NME, up to 0.1, as a share of that interval.
        - `keypoints`: lists with an entry per keypoint: `names`, `count`, `pixels`, `nme`.
        """
        objects = _of_all_processes(self.objects)
        groups: dict[Any, list[Prediction]] = {}
        targets: dict[Any, Target] = {}
        for number, (prediction, target) in enumerate(objects):
            if (target.id, target.path) == (None, ""):  # a name, by which CocoMetrics counts it once over processes
                target = replace(target, path=f"object {number}")
            key = (target.id, target.path)
            groups.setdefault(key, []).append(prediction)
            targets.setdefault(key, target)
        self.coco.reset()
        errors: list[Errors] = []
        for key, predictions in groups.items():
            errors += self._errors(predictions, targets[key]).values()
            merged = self.task.merge_objects([_above_zero(p) for p in predictions], targets[key].size or (0, 0))
            self.coco.update([merged], [targets[key]])
        values = self.coco.compute()
        self.coco.reset()
        if not errors:
            return values
        pixels = np.stack([error.pixels for error in errors])  # [N, K]
        normalised = pixels / np.array([error.scale for error in errors])[:, None]
        nmes = np.nanmean(normalised, 1)
        counts = (~np.isnan(pixels)).sum(0)
        return values | {
            "pixel_error": float(np.nanmean(pixels)),
            "nme": float(nmes.mean()),
            "failure_rate": float((nmes > FAILURE).mean()),
            "auc": float(np.clip(1 - nmes / FAILURE, 0, 1).mean()),
            "keypoints": {
                "names": list(self.schema.names),
                "count": counts.tolist(),
                "pixels": _means(pixels, counts),
                "nme": _means(normalised, counts),
            },
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Of one object: `oks` with the object of the image that it fits best, mean distance in `pixels` and `nme`; as
        `error`, 1 - OKS."""
        image = image_instances(prediction, target, masks=False)
        labelled = _labelled(target)
        similarity = oks(image.detections, image.objects, self.sigmas)[:, labelled]
        best = float(similarity.max(initial=0.0))
        first = next(iter(self._errors([prediction], target).values()), None)
        return {
            "oks": best,
            "pixels": float(np.nanmean(first.pixels)) if first else None,
            "nme": first.nme if first else None,
            "error": 1 - best if bool(labelled.any()) else 0.0,
        }

    def _errors(self, predictions: Sequence[Prediction], target: Target) -> dict[int, Errors]:
        """The errors of the annotated objects of an image, by their index, from the predictions for it."""
        candidates = np.flatnonzero(_labelled(target))
        errors: dict[int, Errors] = {}
        if not len(candidates):
            return errors
        assert target.keypoints is not None
        assert target.boxes is not None
        rows = [(prediction, i) for prediction in predictions for i in range(len(prediction))]
        for prediction, i in sorted(rows, key=_score, reverse=True):
            assert prediction.boxes is not None
            assert prediction.keypoints is not None
            ious = box_iou(prediction.boxes[i : i + 1].float(), target.boxes[candidates].float())[0]
            index = int(candidates[int(ious.argmax())])
            fits = float(ious.max()) >= MIN_IOU or (len(candidates) == 1 and _is_whole(prediction, i))
            if index in errors or not fits:
                continue
            annotated = target.keypoints[index].double().cpu()
            distances = (prediction.keypoints[i, :, :2].double().cpu() - annotated[:, :2]).square().sum(1).sqrt()
            pixels = torch.where(annotated[:, 2] > 0, distances, math.nan).numpy()
            scale = self._scale(annotated, target.boxes[index])
            if scale > 0:
                errors[index] = Errors(pixels, scale)
        return errors

    def _scale(self, keypoints: Tensor, box: Tensor) -> float:
        if self.pair is not None:
            first, second = keypoints[list(self.pair)]
            if first[2] > 0 and second[2] > 0:
                return float((first[:2] - second[:2]).square().sum().sqrt())
            return 0.0
        return float((box[2:] - box[:2]).double().clamp(min=0).prod().sqrt())


def _pair(schema: KeypointSchema, names: Sequence[str]) -> tuple[int, int] | None:
    if names:
        first, second = (schema.names.index(name) for name in names)
        return first, second
    numbered = schema.names == tuple(str(i) for i in range(len(schema.names)))
    return PAIRS.get(len(schema.names)) if numbered else None


def _labelled(target: Target) -> np.ndarray:
    """[N] bool, objects that have a labelled keypoint and are no crowd."""
    assert target.keypoints is not None
    labelled = (target.keypoints[..., 2] > 0).any(1).cpu().numpy()
    return labelled if target.crowd is None else labelled & ~target.crowd.cpu().numpy()


def _score(row: tuple[Prediction, int]) -> float:
    prediction, i = row
    assert prediction.scores is not None
    return float(prediction.scores[i])


def _is_whole(prediction: Prediction, i: int) -> bool:
    """Whether the box of an object is the image, which is then known to show one object."""
    assert prediction.boxes is not None
    height, width = prediction.size or (0, 0)
    return prediction.boxes[i].tolist() == [0, 0, width, height]


def _above_zero(prediction: Prediction) -> Prediction:
    assert prediction.scores is not None
    kept = torch.nonzero(prediction.scores > 0).flatten().tolist()
    return prediction if len(kept) == len(prediction) else prediction.take(kept)


def _means(values: np.ndarray, counts: np.ndarray) -> list[float | None]:
    sums = np.nansum(values, 0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _of_all_processes(objects: list[tuple[Prediction, Target]]) -> list[tuple[Prediction, Target]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return objects
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, objects)
    return [pair for part in parts for pair in part]
