"""Metrics of the classes of texts: those of images, and whether attention finds the words that decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchmetrics import MeanMetric

from vertebra.metrics.classification import ClassificationMetrics
from vertebra.structures import Prediction, Target


class TextClassificationMetrics(nn.Module):
    """The metrics of classification, and where the deciding words are known, how often attention looks at one most."""

    names: Mapping[str, str] = {
        "top1": ClassificationMetrics.names["top1"],
        "attention": "attention accuracy",
        **ClassificationMetrics.names,
    }

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classes = ClassificationMetrics(num_classes)
        self.attention = MeanMetric(nan_strategy="ignore")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        self.classes.update(predictions, targets)
        hits = [attention_hit(*pair) for pair in zip(predictions, targets, strict=True)]
        self.attention.update(torch.tensor(hits))

    def compute(self) -> dict[str, Any]:
        """As ClassificationMetrics; `attention` in 0..1, only where the deciding words are known."""
        attention = float(self.attention.compute())
        return self.classes.compute() | ({} if math.isnan(attention) else {"attention": attention})

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """As ClassificationMetrics."""
        return self.classes.row(prediction, target)

    def reset(self) -> None:
        self.classes.reset()
        self.attention.reset()


def attention_hit(prediction: Prediction, target: Target) -> float:
    """1 if the class is right and the word with the largest mean weight is one that decides it, 0 if only the class is
    right; NaN where it is wrong, or the deciding words are not known."""
    assert prediction.probabilities is not None
    if prediction.alignment is None or target.alignment is None or target.label is None:
        return math.nan
    if int(prediction.probabilities.argmax()) != int(target.label):
        return math.nan
    place = int(prediction.alignment.mean[0].argmax())
    return float(target.alignment[0, place])
