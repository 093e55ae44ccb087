"""A linear classifier on the pooled features of any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.errors import VertebraError, in_range
from vertebra.metrics.classification import ClassificationMetrics
from vertebra.structures import Frame, Prediction, Preprocess, Target
from vertebra.tasks.base import Task


@dataclass(frozen=True)
class Config:
    """The model, and the loss it is trained with."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's own Config to replace, such as `{pool: mean}` of a ViT."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    dropout: float = 0.0
    """Dropout rate before the classifier."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes, in 0..1."""
    class_weights: tuple[float, ...] | None = None
    """Factor on the loss of each class, in the order of the classes."""

    def __post_init__(self) -> None:
        for name in ("drop_path", "dropout", "label_smoothing"):
            in_range(name, getattr(self, name), 0, 1)


class MeanHead(nn.ModuleList):
    """A classifier for each equal part of the embedding, and the mean of their logits: [B, width] -> [B, classes].

    Source: DeiT, arXiv:2012.12877, section 4 ("classification with our approach: joint classifiers").
    """

    def __init__(self, width: int, classes: int, parts: int) -> None:
        super().__init__(nn.Linear(width // parts, classes) for _ in range(parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).mean(1)

    def each(self, x: Tensor) -> Tensor:
        """The logits of every part: [B, width] -> [B, parts, classes]."""
        return torch.stack([layer(part) for layer, part in zip(self, x.chunk(len(self), 1), strict=True)], 1)


class Classification(Task):
    """[B, C, H, W] -> logits [B, classes]."""

    name = "classification"
    best = "top1"
    truth = "label"

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: backbones.Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to make."""
        super().__init__(config, classes, preprocess)
        common = {"channels": preprocess.channels, "drop_path": config.drop_path, "image_size": preprocess.size}
        self.backbone = backbone or backbones.create(
            config.backbone, embedding=True, **{**common, **config.backbone_options}
        )
        self.dropout = nn.Dropout(config.dropout)
        width, parts = self.backbone.width, self.backbone.parts
        self.head: nn.Module = (
            nn.Linear(width, len(self.classes)) if parts == 1 else MeanHead(width, len(self.classes), parts)
        )
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        weights = config.class_weights
        if weights is not None and len(weights) != len(self.classes):
            raise VertebraError(f"{len(weights)} class weights were given for {len(self.classes)} classes.")
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.class_weights: Tensor | None

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.backbone.embed(images)))
        return logits

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy with hard labels or, after mixup and its like, soft ones."""
        labels = torch.stack([t.label for t in targets if t.label is not None])  # [B] or [B, classes]
        value = nn.functional.cross_entropy(
            self(images), labels, weight=self.class_weights, label_smoothing=self.config.label_smoothing
        )
        return {"classification": value}

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        return [Prediction(probabilities=p) for p in self(images).float().softmax(1).cpu()]

    def embed(self, images: Any) -> Tensor:
        """The pooled features of pictures, as `predict` takes them: -> [B, width]."""
        return self.apply_to(images, lambda batch, _: self.backbone.embed(batch))

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.classes))
