"""Metrics of semantic segmentation, from confusion matrices of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from vertebra.structures import IGNORED, Prediction, Target

BAND = 0.02
"""Width of the band along boundaries, as a share of the image's diagonal."""


class SegmentationMetrics(Metric):
    """IoU, Dice and accuracy over all pixels of a data set, and over processes; ignored pixels count nowhere."""

    names: Mapping[str, str] = {
        "miou": "mean IoU",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "dice": "mean Dice",
        "boundary_iou": "boundary IoU",
    }
    confusion: Tensor
    boundary: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("boundary", torch.zeros(2, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):
            predicted, labels = _maps(prediction, target)
            self.confusion += self._confusion(predicted, labels).to(self.device)
            self.boundary += boundary_counts(predicted.numpy(), labels.numpy(), self.num_classes).to(self.device)

    def compute(self) -> dict[str, Any]:
        """All in 0..1; means are over the classes that occur in the predictions or the targets, those of accuracy over
        the ones that occur in the targets. `confusion` [classes, classes] counts pixels, a row per target class;
        `per_class` has lists of 0..1 or None, and the share of each class in the targets' pixels."""
        confusion, boundary = self.confusion.cpu().double(), self.boundary.cpu().double()
        hits, support, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        iou = hits / (support + predicted - hits)  # NaN where a class does not occur
        dice = 2 * hits / (support + predicted)
        accuracy = hits / support
        boundary_iou = boundary[0] / boundary[1]
        return {
            "miou": _mean(iou),
            "pixel_accuracy": float(hits.sum() / support.sum().clamp(min=1)),
            "mean_accuracy": _mean(accuracy),
            "dice": _mean(dice),
            "boundary_iou": _mean(boundary_iou),
            "confusion": self.confusion.tolist(),
            "per_class": {
                "iou": _defined(iou),
                "dice": _defined(dice),
                "accuracy": _defined(accuracy),
                "boundary_iou": _defined(boundary_iou),
                "share": (support / support.sum().clamp(min=1)).tolist(),
            },
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Pixel accuracy and mean IoU of one image; as `error`, 1 - pixel accuracy."""
        confusion = self._confusion(*_maps(prediction, target)).double()
        hits = confusion.diag()
        accuracy = float(hits.sum() / confusion.sum().clamp(min=1)) if confusion.sum() else 1.0
        return {
            "pixel_accuracy": accuracy,
            "miou": _mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)),
            "error": 1 - accuracy,
        }

    def _confusion(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return multiclass_confusion_matrix(
            predicted.long(), labels.long(), self.num_classes, ignore_index=IGNORED, validate_args=False
        )


def boundary_counts(predicted: NDArray[Any], labels: NDArray[Any], num_classes: int, *, outside: bool = True) -> Tensor:
    """Pixels of the intersection and the union of both boundaries of every class: [2, num_classes] int64.

    The boundary of a class is the pixels of it that are at most d = 0.02 of the image's diagonal away, in the maximum
    norm, from another class or the outside of the image.

    Args:
        predicted: [H, W] uint8.
        labels: [H, W] uint8; 255 is ignored.
        outside: whether classes have a boundary to the outside of the image, which is none where the image is a part of
            another.

    Source: Boundary IoU, arXiv:2103.16562, section 4.
    """
    predicted = np.where(labels == IGNORED, IGNORED, predicted).astype(np.uint8)
    bands, mode = [], "constant" if outside else "nearest"
    for classes in (predicted, labels.astype(np.uint8)):
        side = 2 * max(1, round(BAND * math.hypot(*classes.shape))) + 1
        highest = maximum_filter(classes, side, mode=mode, cval=IGNORED)
        lowest = minimum_filter(classes, side, mode=mode, cval=IGNORED)
        bands.append(np.where(highest != lowest, classes, IGNORED))

    def count(pixels: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(pixels[pixels != IGNORED], minlength=num_classes)

    both = count(np.where(bands[0] == bands[1], bands[0], IGNORED))
    return torch.from_numpy(np.stack([both, count(bands[0]) + count(bands[1]) - both]))


def _maps(prediction: Prediction, target: Target) -> tuple[Tensor, Tensor]:
    assert prediction.semantic is not None
    assert target.semantic is not None
    return prediction.semantic.cpu(), target.semantic.cpu()


def _mean(values: Tensor) -> float:
    """The mean of what is defined; 0 if nothing is."""
    return float(values.nanmean().nan_to_num())


def _defined(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
