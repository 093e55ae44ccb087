"""What the methods of translation share: an encoder, a decoder that predicts token after token, and its search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vertebra.errors import VertebraError, in_range
from vertebra.ops.beam_search import State, beam_search, repeated
from vertebra.options import adjustable, training_only
from vertebra.structures import Alignment, Frame, Prediction, Preprocess, Target
from vertebra.tasks import inputs
from vertebra.tasks.base import Size
from vertebra.tasks.text_task import TextTask, padded_tokens, shifted, vocabulary_of
from vertebra.text import PAD

if TYPE_CHECKING:
    from vertebra.metrics.translation import TranslationMetrics

MAX_TOKENS = 1024
"""Of a source sentence."""


@dataclass(frozen=True)
class TranslatorConfig:
    """Vocabularies, loss and search."""

    source_vocabulary: str = ""
    """Vocabulary of the source as the package tokenizers writes it, learned from the training data; bytes if empty."""
    target_vocabulary: str = ""
    """Vocabulary of the target, likewise."""
    dropout: float = training_only(0.1)
    """Dropout rate of embeddings and layers."""
    label_smoothing: float = training_only(0.0)
    """Label smoothing, in 0..1."""
    beam: int = adjustable(4)
    """Hypotheses of the beam search; 1 takes the most probable token at each step (greedy)."""
    length_penalty: float = adjustable(0.6)
    """Exponent of the length by which log probabilities are divided in the beam search; 0 prefers short sentences."""
    coverage_penalty: float = adjustable(0.0)
    """Weight in the beam search of source tokens that no predicted token attends to."""
    max_length_ratio: float = adjustable(2.0)
    """Longest translation, in tokens per token of the source; 10 are always allowed besides."""

    def __post_init__(self) -> None:
        in_range("dropout", self.dropout, 0, 0.99)
        in_range("label_smoothing", self.label_smoothing, 0, 0.99)
        in_range("beam", self.beam, 1, 100)
        for name in ("length_penalty", "coverage_penalty"):
            in_range(name, getattr(self, name), 0, 100)
        in_range("max_length_ratio", self.max_length_ratio, 0.1, 100)


class Translator(TextTask):
    """Source ids [B, S] -> memory [B, S, D] and the source ids; `decode` searches the translations in it.

    A method has `encode`, `teacher_forced`, `start`, `step` and `align`.
    """

    kind = "sentences"
    monitor = "chrf"
    fixed_classes = ("sentence",)
    target_fields = ("tokens",)
    decodes_with_weights = True
    no_weight_decay = ("bias",)

    def __init__(self, config: Any, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.source = vocabulary_of(config.source_vocabulary)
        self.target = vocabulary_of(config.target_vocabulary)

    # -- of a method

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """Source ids and mask [B, S], True = token -> memory [B, S, D]."""
        raise NotImplementedError

    def teacher_forced(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of the tokens that follow `tokens` [B, T], the first of which is BEGIN."""
        raise NotImplementedError

    def start(self, memory: Tensor, mask: Tensor) -> tuple[State, State]:
        """The decoder's state before its first step, and what it reads at every step, for B sources."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        """See `beam_search.Step`; `context` is the second result of `start`."""
        raise NotImplementedError

    def align(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Attention weights [B, layers, heads, T, S]; arguments as of `teacher_forced`."""
        raise NotImplementedError

    # -- of the task

    def check_input(self, images: Any) -> None:
        """Raises VertebraError if `images` are not ids of source tokens."""
        expected = f"ids [B, S] int64 of tokens, below {len(self.source)}"
        if not isinstance(images, Tensor) or images.ndim != 2 or images.dtype != torch.int64 or not images.numel():
            raise VertebraError(f"sources are {inputs.form(images)}; they must be {expected}.")
        if int(images.min()) < 0 or int(images.max()) >= len(self.source):
            raise VertebraError(f"sources have the id {int(images.max())}; they must be {expected}.")

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Source ids [B, S] int64 -> memory [B, S, D] and the ids."""
        return self.encode(images, images != PAD), images

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the target tokens, in nats per token."""
        tokens = padded_tokens(targets, len(self.target))
        mask = images != PAD
        logits = self.teacher_forced(self.encode(images, mask), mask, shifted(tokens))
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            tokens.flatten(),
            ignore_index=PAD,
            label_smoothing=self.config.label_smoothing,
        )
        return {"loss": loss}

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        memory, source = raw
        mask = source != PAD
        lengths = mask.sum(1)
        limits = (self.config.max_length_ratio * lengths).long() + 10
        state, context = (repeated(part, self.config.beam) for part in self.start(memory, mask))
        hypotheses = beam_search(
            partial(self.step, context=context),
            state,
            mask,
            beam=self.config.beam,
            max_lengths=limits,
            length_penalty=self.config.length_penalty,
            coverage_penalty=self.config.coverage_penalty,
        )
        weights = self.align(memory, mask, shifted(hypotheses.tokens)).float().cpu()
        predictions = []
        for i, tokens in enumerate(hypotheses.tokens.cpu()):
            tokens = tokens[tokens != PAD]
            ids = source[i, : lengths[i]].cpu()
            alignment = Alignment(
                self.source.tokens(ids), self.target.tokens(tokens), weights[i, :, :, : len(tokens), : len(ids)]
            )
            predictions.append(Prediction(text=self.target.decode(tokens), tokens=tokens, alignment=alignment))
        return predictions

    def text_ids(self, text: str, name: str) -> Tensor:
        """Ids of the tokens of a source sentence and its end: [S] int64."""
        if not isinstance(text, str) or not text.strip():
            raise VertebraError(f"{name} is empty; give a text to translate.")
        ids = self.source.encode_ended(text.strip())
        if (count := len(ids) - 1) > MAX_TOKENS:
            raise VertebraError(f"{name} has {count:,} tokens, more than {MAX_TOKENS:,}: split it into sentences.")
        return ids

    def stack(self, texts: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(texts), batch_first=True, padding_value=PAD)

    def metrics(self, **options: Any) -> TranslationMetrics:
        from vertebra.metrics.translation import TranslationMetrics  # with torchmetrics, which prediction does not need

        return TranslationMetrics(**options)


def embedding(size: int, width: int) -> nn.Embedding:
    """Embeddings of variance 1 / width, padding among them."""
    layer = nn.Embedding(size, width)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(width))
    return layer


RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.0,
    "clip": 1.0,
    "data.path": "dates",
    "data.batch_size": 64,
}
"""Training settings of all methods."""
