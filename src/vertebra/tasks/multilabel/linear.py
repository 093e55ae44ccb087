"""A linear classifier of several classes per image on the pooled features of any backbone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vertebra import backbones
from vertebra.errors import VertebraError, in_range
from vertebra.ops.multilabel import asymmetric_loss, multi_hot, tag_cross_entropy
from vertebra.options import training_only
from vertebra.structures import Answer, Frame, Prediction, Preprocess, Target
from vertebra.tasks.base import BackboneTask, Size

if TYPE_CHECKING:
    from vertebra.metrics.multilabel import MultilabelMetrics

PRIOR = 0.01
"""Probability of every class before training, so that the many absent classes do not dominate the first steps. Source:
Focal Loss for Dense Object Detection, arXiv:1708.02002, section 3.3."""


@dataclass(frozen=True)
class Config:
    """The model and its training loss."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's Config to replace, such as `{pool: mean}` of a ViT."""
    loss: Literal["bce", "asymmetric", "softmax"] = "bce"
    """`bce`, the binary cross-entropy of every class; `asymmetric`, which counts easy negatives less; `softmax`, the
    cross-entropy of all classes together, each tag of an image having an equal share, for pre-training on tags. With
    `softmax` probabilities sum to 1."""
    gamma_negative: float = training_only(4.0)
    """With `asymmetric`: focusing parameter of the classes that an image does not have; 0 counts all alike."""
    gamma_positive: float = training_only(0.0)
    """With `asymmetric`: focusing parameter of the classes that it has."""
    margin: float = training_only(0.05)
    """With `asymmetric`: absent classes of a lower probability have no loss, 0..1."""
    label_smoothing: float = training_only(0.0)
    """Label smoothing, in 0..1: the targets of a class are this far moved to 0.5, with `softmax` to equal shares."""
    drop_path: float = training_only(0.0)
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    dropout: float = training_only(0.0)
    """Dropout rate before the classifier."""
    class_weights: tuple[float, ...] | None = training_only(None)
    """Weight of each class in the loss, in the order of the classes."""

    def __post_init__(self) -> None:
        for name in ("margin", "drop_path", "dropout", "label_smoothing"):
            in_range(name, getattr(self, name), 0, 1)
        for name in ("gamma_negative", "gamma_positive"):
            in_range(name, getattr(self, name), 0, 100)
        for name in ("gamma_negative", "gamma_positive", "margin"):
            if self.loss != "asymmetric" and getattr(self, name) != getattr(Config, name):
                raise VertebraError(f"{name} is for loss asymmetric, and loss is {self.loss}: leave it out.")
        for weight in self.class_weights or ():
            in_range("class_weights", weight, 0, 1_000_000)


class TagHead(nn.Module):
    """A linear classifier: [B, width] -> logits [B, num_classes].

    Its tensors have other names than a classifier's head, whose logits mean something else even where the classes are
    equally many.
    """

    def __init__(self, width: int, num_classes: int, prior: float | None) -> None:
        """`prior` is the initial probability of each class; None for logits that start at 0."""
        super().__init__()
        self.classify = nn.Linear(width, num_classes)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(self.classify.bias, 0.0 if prior is None else math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x)


class LinearTagger(BackboneTask):
    """[B, C, H, W] -> logits [B, num_classes]."""

    kind = "tags"
    monitor = "map"
    target_fields = ("tags",)
    has_class_logits = True
    label_options = ("gamma_negative", "gamma_positive", "margin", "label_smoothing", "class_weights")

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: backbones.Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        softmax = config.loss == "softmax"
        if softmax and len(self.classes) < 2:
            raise VertebraError("loss is 'softmax', which tells classes apart; there is one class only: use 'bce'.")
        common: dict[str, Any] = {
            "channels": preprocess.channels,
            "drop_path": config.drop_path,
            "image_size": preprocess.size,
            "embedding": True,
        }
        self.backbone = backbone or backbones.create(config.backbone, **{**common, **config.backbone_options})
        self.dropout = nn.Dropout(config.dropout)
        self.head = TagHead(self.backbone.width, len(self.classes), None if softmax else PRIOR)
        self.register_class_weights(config.class_weights)

    @property
    def independent_classes(self) -> bool:  # type: ignore[override]
        return bool(self.config.loss != "softmax")

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """The whole image: a centre crop could cut off what a tag is about."""
        return dataclasses.replace(super().default_preprocess(known, config), crop=1.0, resize="squash")

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        return (self.head(self.dropout(self.backbone.embed(images))),)

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The logit of the tag."""
        return raw[0][:, answer.label].float()

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss of the config: `bce` and `asymmetric` summed over the classes, as one loss per class; the mean over
        the images. With `softmax`, images without a tag do not count."""
        (logits,) = self(images)
        return {"tags": self.tag_loss(logits, targets)}

    def tag_loss(self, logits: Tensor, targets: Sequence[Target]) -> Tensor:
        """As `loss`, of logits [B, num_classes]."""
        config = self.config
        expected = multi_hot([target.tags for target in targets if target.tags is not None], len(self.classes))
        if config.loss == "softmax":
            return tag_cross_entropy(logits, expected, self.class_weights, config.label_smoothing)
        expected = expected * (1 - config.label_smoothing) + config.label_smoothing / 2
        if config.loss == "asymmetric":
            losses = asymmetric_loss(logits, expected, config.gamma_negative, config.gamma_positive, config.margin)
        else:
            losses = binary_cross_entropy_with_logits(logits.float(), expected, reduction="none")
        if self.class_weights is not None:
            losses = losses * self.class_weights
        return losses.sum(1).mean()

    def class_logits(self, images: Tensor) -> Tensor:
        (logits,) = self(images)
        return logits

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, None]:
        (logits,) = self(images)
        return {"tags": self.tag_loss(logits[: len(targets)], targets)}, logits[:, None], None

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        logits = raw[0].float()
        probabilities = logits.softmax(1) if self.config.loss == "softmax" else logits.sigmoid()
        return [Prediction().with_tags(tags) for tags in probabilities.cpu()]

    def metrics(self, **options: Any) -> MultilabelMetrics:
        from vertebra.metrics.multilabel import MultilabelMetrics

        return MultilabelMetrics(len(self.classes), **options)


MODEL = LinearTagger
RECIPE: dict[str, Any] = {}
SOURCES: dict[str, Any] = {}
