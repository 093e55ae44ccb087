"""Metrics of classification: a thin face over torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from vertebra.structures import Prediction, Target


class _NegativeLogLikelihood(Metric):
    """Mean of -log p(target class), in nats."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        target = probabilities[torch.arange(len(labels), device=labels.device), labels]
        self.total -= target.float().clamp(min=1e-12).log().sum()  # no float64: Apple's devices have none
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


class ClassificationMetrics(MetricCollection):
    """Top-1, top-5, likelihood, calibration and the confusion matrix, over a data set and over processes."""

    names: Mapping[str, str] = {
        "top1": "top-1 accuracy",
        "top5": "top-5 accuracy",
        "balanced_accuracy": "balanced accuracy",
        "f1": "mean F1",
        "loss": "loss (nats)",
        "calibration_error": "calibration error",
    }

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
                "loss": _NegativeLogLikelihood(),
                "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
                "confusion": MulticlassConfusionMatrix(num_classes),
            },
            compute_groups=False,
        )

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:  # type: ignore[override]
        probabilities = torch.stack([p.probabilities for p in predictions if p.probabilities is not None])
        labels = torch.stack([t.label for t in targets if t.label is not None])
        device = self["top1"].device
        super().update(probabilities.to(device), labels.to(device))

    def compute(self) -> dict[str, Any]:
        """top1, top5 and calibration_error (expected, 15 bins) in 0..1; loss in nats; macro means over the classes
        that occur; `confusion` [classes, classes] counts, a row per target class; `per_class` lists of 0..1."""
        values = super().compute()
        confusion = values.pop("confusion").cpu().double()  # [classes, classes]
        hits, support, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        recall = hits / support.clamp(min=1)
        precision = hits / predicted.clamp(min=1)
        f1 = 2 * hits / (support + predicted).clamp(min=1)
        occurring = support > 0
        return {
            **{name: float(value) for name, value in values.items()},
            "balanced_accuracy": float(recall[occurring].mean()),
            "f1": float(f1[occurring].mean()),
            "confusion": confusion.long().tolist(),
            "per_class": {
                "precision": precision.tolist(),
                "recall": recall.tolist(),
                "f1": f1.tolist(),
                "support": support.long().tolist(),
            },
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Class indices `target` and `prediction` with their probabilities; as `error`, 1 - the target's probability
        where the prediction is wrong."""
        assert prediction.probabilities is not None
        assert target.label is not None
        (predicted, probability), label = prediction.top(1)[0], int(target.label)
        target_probability = float(prediction.probabilities[label])
        return {
            "target": label,
            "prediction": predicted,
            "probability": probability,
            "target_probability": target_probability,
            "error": 1 - target_probability if predicted != label else 0.0,
        }
