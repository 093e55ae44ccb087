"""How good a classifier is: a thin face over torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from vertebra.structures import Prediction, Target


class _NegativeLogLikelihood(Metric):
    """Mean of -log p(truth), in nats."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        truth = probabilities[torch.arange(len(labels), device=labels.device), labels]
        self.total -= truth.float().clamp(min=1e-12).log().sum()  # no float64: Apple's devices have none
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


class ClassificationMetrics(MetricCollection):
    """Top-1, top-5, likelihood, calibration and the confusion matrix over a data set, and over processes."""

    labels: Mapping[str, str] = {
        "top1": "top-1 accuracy",
        "top5": "top-5 accuracy",
        "balanced_accuracy": "balanced accuracy",
        "f1": "mean F1",
        "loss": "loss (nats)",
        "calibration_error": "calibration error",
    }

    def __init__(self, classes: int) -> None:
        super().__init__(
            {
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, average="micro", top_k=min(5, classes)),
                "loss": _NegativeLogLikelihood(),
                "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1"),
                "confusion": MulticlassConfusionMatrix(classes),
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
        that occur; `confusion` [classes, classes] counts, a row per true class; `per_class` lists of 0..1."""
        values = super().compute()
        confusion = values.pop("confusion").cpu().double()  # [classes, classes]
        hits, support, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        recall = hits / support.clamp(min=1)
        precision = hits / predicted.clamp(min=1)
        f1 = 2 * hits / (support + predicted).clamp(min=1)
        seen = support > 0
        return {
            **{name: float(value) for name, value in values.items()},
            "balanced_accuracy": float(recall[seen].mean()),
            "f1": float(f1[seen].mean()),
            "confusion": confusion.long().tolist(),
            "per_class": {
                "precision": precision.tolist(),
                "recall": recall.tolist(),
                "f1": f1.tolist(),
                "support": support.long().tolist(),
            },
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Class indices `truth` and `answer`, the probability of both, and as error what the truth lacks to 1."""
        assert prediction.probabilities is not None
        assert target.label is not None
        (answer, probability), truth = prediction.top(1)[0], int(target.label)
        given = float(prediction.probabilities[truth])
        return {
            "truth": truth,
            "answer": answer,
            "probability": probability,
            "truth_probability": given,
            "error": 1 - given if answer != truth else 0.0,
        }
