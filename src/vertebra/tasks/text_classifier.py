"""What the methods of text classification share: words in, a class out, and how much each word counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError, in_range
from vertebra.options import training_only
from vertebra.structures import Alignment, Frame, Prediction, Preprocess, Target
from vertebra.tasks import inputs
from vertebra.tasks.base import Size
from vertebra.tasks.text_task import TextTask, vocabulary_of
from vertebra.text import PAD, pad_texts

if TYPE_CHECKING:
    from vertebra.metrics.text_classification import TextClassificationMetrics

MAX_TOKENS = 10_000
"""Of a text."""


@dataclass(frozen=True)
class TextClassifierConfig:
    """Vocabulary and loss."""

    vocabulary: str = ""
    """Vocabulary as the package tokenizers writes it, learned from the training data; bytes if empty."""
    dropout: float = training_only(0.1)
    """Dropout rate of the embeddings and of what the classifier reads."""
    label_smoothing: float = training_only(0.0)
    """Label smoothing, in 0..1."""
    class_weights: tuple[float, ...] | None = training_only(None)
    """Weight of each class in the loss, in the order of the classes."""

    def __post_init__(self) -> None:
        in_range("dropout", self.dropout, 0, 0.99)
        in_range("label_smoothing", self.label_smoothing, 0, 0.99)
        for weight in self.class_weights or ():
            in_range("class_weights", weight, 0, 1_000_000)


class TextClassifier(TextTask):
    """Token ids [B, R, W] of R sentences -> logits [B, num_classes], weights [B, layers, heads, R, W] and the ids.

    A question is the first row. The weights of each layer and head sum to 1 over the words of a text.
    A method has `read`.
    """

    kind = "text_category"
    monitor = "top1"
    target_fields = ("label",)
    needs_question = False
    """Whether every text must have a question."""

    def __init__(self, config: Any, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.vocabulary = vocabulary_of(config.vocabulary)
        self.register_class_weights(config.class_weights)

    def read(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, R, W], True = word -> logits [B, num_classes] and weights [B, layers, heads, R, W]."""
        raise NotImplementedError

    def check_input(self, images: Any) -> None:
        """Raises VertebraError if `images` are not ids of the words of texts."""
        expected = f"ids [B, sentences, words] int64, below {len(self.vocabulary)}"
        if not isinstance(images, Tensor) or images.ndim != 3 or images.dtype != torch.int64 or not images.numel():
            raise VertebraError(f"texts are {inputs.form(images)}; they must be {expected}.")
        if int(images.min()) < 0 or int(images.max()) >= len(self.vocabulary):
            raise VertebraError(f"texts have the id {int(images.max())}; they must be {expected}.")

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        logits, weights = self.read(images, images != PAD)
        return logits, weights, images

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy, in nats."""
        logits, _ = self.read(images, images != PAD)
        return {"classification": self.label_loss(logits, targets)}

    def label_loss(self, logits: Tensor, targets: Sequence[Target]) -> Tensor:
        """The mean cross-entropy over texts of logits [B, num_classes]."""
        labels = torch.stack([target.label for target in targets if target.label is not None])
        return nn.functional.cross_entropy(
            logits.float(), labels, weight=self.class_weights, label_smoothing=self.config.label_smoothing
        )

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        """Probabilities, and as `alignment` the weight of each word for the top class."""
        logits, weights, ids = raw
        predictions = []
        for probabilities, of_text, text in zip(
            logits.float().softmax(1).cpu(), weights.float().cpu(), ids.cpu(), strict=True
        ):
            top = self.classes[int(probabilities.argmax())]
            mask = text != PAD
            alignment = Alignment(self.vocabulary.tokens(text[mask]), (top,), of_text[:, :, mask][:, :, None])
            predictions.append(Prediction(probabilities=probabilities, alignment=alignment))
        return predictions

    def text_ids(self, text: str, name: str) -> Tensor:
        """Ids [R, W] int64 of the words of each sentence, filled with PAD; a question, which stands behind the text
        after a tab, is the first."""
        if not isinstance(text, str) or not text.strip():
            raise VertebraError(f"{name} is empty; give a text to classify.")
        content, _, question = text.rpartition("\t") if "\t" in text else (text, "", "")
        if self.needs_question and not (content.strip() and question.strip()):
            raise VertebraError(
                f"{name} has no question: in a table it is the column question, in a line it stands behind the text, "
                "after a tab."
            )
        rows = self.vocabulary.encode_text(content)[0]
        if question.strip():
            rows.insert(0, self.vocabulary.ids(question.strip()))
        if not rows or (count := sum(map(len, rows))) == 0:
            raise VertebraError(f"{name} has no words.")
        if count > MAX_TOKENS:
            raise VertebraError(f"{name} has {count:,} tokens, more than {MAX_TOKENS:,}: split it.")
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])

    def stack(self, texts: Sequence[Tensor]) -> Tensor:
        return pad_texts(texts)

    def metrics(self, **options: Any) -> TextClassificationMetrics:
        from vertebra.metrics.text_classification import TextClassificationMetrics

        return TextClassificationMetrics(len(self.classes), **options)


def embedding(size: int, width: int) -> nn.Embedding:
    """Embeddings of variance 1, that of padding 0."""
    return nn.Embedding(size, width, padding_idx=PAD)


RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip": 1.0,
    "lr": 0.005,
    "data.path": "reviews",
    "data.batch_size": 32,
    "epochs": 5,
}
"""Training settings of all methods."""
