"""Structured self-attention: several distributions over the words of a text, which a penalty keeps apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.attention import StructuredAttention
from vertebra.attention.structured import overlap_penalty
from vertebra.errors import in_range
from vertebra.nn.recurrent import Bidirectional
from vertebra.options import training_only
from vertebra.structures import Preprocess, Target
from vertebra.tasks import text_classifier
from vertebra.tasks.text_classifier import TextClassifier, TextClassifierConfig, embedding
from vertebra.text import PAD


@dataclass(frozen=True)
class Config(TextClassifierConfig):
    """The model and its training loss; the paper's has width 100, hidden 300, attention 350, 30 hops and units 2000."""

    width: int = 64
    """Channels of the embeddings."""
    hidden: int = 64
    """Channels of the recurrent layer in one direction."""
    attention: int = 64
    """Hidden channels of the attention (the paper's d_a)."""
    hops: int = 4
    """Distributions over the words (the paper's r)."""
    units: int = 128
    """Hidden channels of the classifier."""
    penalty: float = training_only(0.1)
    """Weight of the penalty on hops that attend to the same words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "hidden", "attention", "hops", "units"):
            in_range(name, getattr(self, name), 1, 65536)
        in_range("penalty", self.penalty, 0, 1000)


class Structured(TextClassifier):
    """Token ids [B, R, W] -> logits [B, num_classes], weights [B, 1, hops, R, W] and the ids.

    The sentences are read as one sequence.

    Source: A Structured Self-attentive Sentence Embedding, arXiv:1703.03130, sections 2.1 and 2.2.
    """

    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.embedding = embedding(len(self.vocabulary), config.width)
        self.encoder = Bidirectional(config.width, config.hidden, nn.LSTM)
        self.attention = StructuredAttention(2 * config.hidden, config.attention, config.hops)
        self.expand = nn.Linear(config.hops * 2 * config.hidden, config.units)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.units, len(self.classes))

    def read(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        flat, valid = words.flatten(1), mask.flatten(1)  # [B, N], N = R * W
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)  # words first, in their order
        flat, valid = flat.gather(1, order), valid.gather(1, order)
        states = self.encoder(self.dropout(self.embedding(flat)), valid)
        hops = self.attention.weights(states, valid[:, None])  # [B, hops, N]
        units = self.expand((hops @ states).flatten(1)).relu()
        back = order[:, None].expand_as(hops)
        weights = torch.zeros_like(hops).scatter(2, back, hops).unflatten(2, (mask.shape[1], mask.shape[2]))
        return self.head(self.dropout(units)), weights[:, None]

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy in nats, and the weighted penalty, the mean over texts."""
        logits, weights = self.read(images, images != PAD)
        penalty = overlap_penalty(weights.float().squeeze(1).flatten(2)).mean()
        return {"classification": self.label_loss(logits, targets), "penalty": self.config.penalty * penalty}


MODEL = Structured
RECIPE = {**text_classifier.RECIPE}
SOURCES: dict[str, Any] = {}
