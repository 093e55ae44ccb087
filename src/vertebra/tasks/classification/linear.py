"""A linear classifier on the pooled features of any backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.errors import in_range
from vertebra.options import training_only
from vertebra.structures import Answer, Frame, Prediction, Preprocess, Target
from vertebra.tasks.base import BackboneTask, Size

if TYPE_CHECKING:
    from vertebra.metrics.classification import ClassificationMetrics


@dataclass(frozen=True)
class Config:
    """The model and its training loss."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's Config to replace, such as `{pool: mean}` of a ViT."""
    drop_path: float = training_only(0.0)
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    dropout: float = training_only(0.0)
    """Dropout rate before the classifier."""
    loss: Literal["cross_entropy", "bce"] = training_only("cross_entropy")
    """Cross-entropy, or binary cross-entropy of each class (`bce`), for which every class that mixup or CutMix has put
    into an image is there."""
    label_smoothing: float = training_only(0.0)
    """Label smoothing, in 0..1."""
    class_weights: tuple[float, ...] | None = training_only(None)
    """Weight of each class in the loss, in the order of the classes."""

    def __post_init__(self) -> None:
        for name in ("drop_path", "dropout", "label_smoothing"):
            in_range(name, getattr(self, name), 0, 1)
        for weight in self.class_weights or ():
            in_range("class_weights", weight, 0, 1_000_000)


class MeanHead(nn.ModuleList):
    """A classifier for each equal part of the embedding, and the mean of their logits: [B, width] -> [B, num_classes].

    Source: DeiT, arXiv:2012.12877, section 4 ("classification with our approach: joint classifiers").
    """

    def __init__(self, width: int, num_classes: int, num_parts: int) -> None:
        super().__init__(nn.Linear(width // num_parts, num_classes) for _ in range(num_parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).mean(1)

    def logits(self, x: Tensor) -> Tensor:
        """The logits of every part: [B, width] -> [B, parts, num_classes]."""
        return torch.stack([layer(part) for layer, part in zip(self, x.chunk(len(self), 1), strict=True)], 1)


class LinearClassifier(BackboneTask):
    """[B, C, H, W] -> logits [B, num_classes]."""

    kind = "category"
    monitor = "top1"
    target_fields = ("label",)
    has_class_logits = True
    label_options = ("loss", "label_smoothing", "class_weights")

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: backbones.Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        common: dict[str, Any] = {
            "channels": preprocess.channels,
            "drop_path": config.drop_path,
            "image_size": preprocess.size,
            "embedding": True,
        }
        self.backbone = backbone or backbones.create(config.backbone, **{**common, **config.backbone_options})
        self.dropout = nn.Dropout(config.dropout)
        width, parts = self.backbone.width, self.backbone.num_classifiers
        self.head: nn.Module = (
            nn.Linear(width, len(self.classes)) if parts == 1 else MeanHead(width, len(self.classes), parts)
        )
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                # Binary cross-entropy starts from equal probabilities too.
                nn.init.constant_(layer.bias, -math.log(max(1, len(self.classes) - 1)) if config.loss == "bce" else 0.0)
        self.register_class_weights(config.class_weights)

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        return (self.head(self.dropout(self.backbone.embed(images))),)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy with hard labels or, after mixup and CutMix, soft ones; or binary cross-entropy, the sum over
        the classes.

        Source of the latter: ResNet strikes back, arXiv:2110.00476, section 2.
        """
        (logits,) = self(images)
        return {"classification": self.label_loss(logits, targets)}

    def label_loss(self, logits: Tensor, targets: Sequence[Target]) -> Tensor:
        """The mean over images of the loss of logits [B, num_classes]."""
        labels = torch.stack([t.label for t in targets if t.label is not None])  # [B] or [B, num_classes]
        smoothing = self.config.label_smoothing
        if self.config.loss == "bce":
            hot = (labels > 0).float() if labels.ndim == 2 else nn.functional.one_hot(labels, len(self.classes)).float()
            hot = hot * (1 - smoothing) + smoothing / len(self.classes)
            terms = nn.functional.binary_cross_entropy_with_logits(logits, hot, self.class_weights, reduction="none")
            return terms.sum(1).mean()
        return nn.functional.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=smoothing)

    def class_logits(self, images: Tensor) -> Tensor:
        (logits,) = self(images)
        return logits

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, None]:
        """Of a backbone with a distillation token, the class token's classifier learns the labels and the other one the
        teacher's (DeiT, arXiv:2012.12877, section 4)."""
        features = self.dropout(self.backbone.embed(images))
        logits = self.head.logits(features) if isinstance(self.head, MeanHead) else self.head(features)[:, None]
        return {"classification": self.label_loss(logits[: len(targets), 0], targets)}, logits, None

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        # After binary cross-entropy too: if exactly one of independent classes is there, these are its probabilities.
        return [Prediction(probabilities=p) for p in raw[0].float().softmax(1).cpu()]

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The logit of the class."""
        return raw[0][:, answer.label].float()

    def metrics(self, **options: Any) -> ClassificationMetrics:
        from vertebra.metrics.classification import ClassificationMetrics

        return ClassificationMetrics(len(self.classes), **options)


MODEL = LinearClassifier
RECIPE: dict[str, Any] = {}
SOURCES: dict[str, Any] = {}
