"""A linear classifier of each image's mean colour; no backbone, no layers, no pooled features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vertebra.metrics.classification import ClassificationMetrics
from vertebra.structures import Prediction
from vertebra.tasks import Task


@dataclass(frozen=True)
class Head:
    """The classifier."""

    bias: bool = True
    """Whether it has a bias."""


@dataclass(frozen=True)
class Config:
    """The model."""

    width: int = 4
    """Hidden units."""
    head: Head = Head()
    """The classifier."""


class MeanColour(Task):
    """[B, C, H, W] -> logits [B, num_classes]."""

    kind = "category"
    monitor = "top1"

    def __init__(self, config, classes, preprocess):
        super().__init__(config, classes, preprocess)
        self.hidden = nn.Linear(preprocess.channels, config.width)
        self.head = nn.Linear(config.width, len(classes), bias=config.head.bias)

    def forward(self, images, sizes=None):
        return (self.head(self.hidden(images.mean((2, 3))).relu()),)

    def loss(self, images, targets):
        labels = torch.stack([target.label for target in targets])
        return {"loss": nn.functional.cross_entropy(self(images)[0], labels)}

    def decode(self, raw, frames):
        return [Prediction(probabilities=probabilities) for probabilities in raw[0].softmax(1).cpu()]

    def metrics(self, **options):
        return ClassificationMetrics(len(self.classes), **options)


MODEL = MeanColour
PAPER = "a test"
RECIPE = {"optimizer": "adamw", "lr": 0.01, "epochs": 2, "data.batch_size": 8, "augment.flip": 0.25}
SOURCES: dict = {}
