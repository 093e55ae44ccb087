"""End-to-end memory network: the answer to a question about a story, after several hops over its sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vertebra.attention import MemoryNetwork
from vertebra.errors import VertebraError, in_range
from vertebra.options import training_only
from vertebra.structures import Preprocess
from vertebra.tasks import text_classifier
from vertebra.tasks.text_classifier import TextClassifier, TextClassifierConfig
from vertebra.text import UNKNOWN

DEVIATION = 0.3
"""Of the initial embeddings. With the paper's 0.1 attention is so even at first that questions of two facts are often
not learned."""


@dataclass(frozen=True)
class Config(TextClassifierConfig):
    """The model and its training loss."""

    dropout: float = training_only(0.0)
    """Dropout rate of the state after the last hop."""
    width: int = 32
    """Channels of the embeddings."""
    hops: int = 3
    """How often the memory is read."""
    tying: Literal["adjacent", "layer-wise"] = "adjacent"
    """Which hops share embeddings: the values of a hop are the keys of the next (`adjacent`), or all hops share both
    (`layer-wise`)."""
    memories: int = 50
    """Sentences of the longest story."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("width", self.width, 1, 65536)
        in_range("hops", self.hops, 1, 100)
        in_range("memories", self.memories, 1, 100_000)


class MemoryClassifier(TextClassifier):
    """Token ids [B, R, W], the first row the question -> logits [B, num_classes], weights [B, hops, 1, R, W] and ids.

    The classes are answers: the logit of one is that of its word, or the mean over its words. A sentence's weight is
    shared by its words.

    Source: End-To-End Memory Networks, arXiv:1503.08895, sections 2 and 4.1.
    """

    needs_question = True

    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.network = MemoryNetwork(
            len(self.vocabulary), config.width, config.hops, config.tying, config.memories, DEVIATION
        )
        self.dropout = nn.Dropout(config.dropout)
        answers = [self.vocabulary.ids(name) or [UNKNOWN] for name in self.classes]
        longest = max(map(len, answers))
        share = [[1 / len(ids)] * len(ids) + [0.0] * (longest - len(ids)) for ids in answers]
        self.register_buffer("share", torch.tensor(share), persistent=False)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in answers])
        self.register_buffer("answers", ids, persistent=False)
        self.share: Tensor
        self.answers: Tensor

    def read(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        state, hops = self.network.read(words[:, 1:], words[:, 0])  # hops: [B, hops, R - 1]
        logits = (self.network.logits(self.dropout(state))[:, self.answers] * self.share).sum(-1)
        shared = mask[:, 1:] / mask[:, 1:].sum(-1, keepdim=True).clamp(min=1)  # [B, R - 1, W]
        weights = nn.functional.pad(hops[..., None] * shared[:, None], (0, 0, 1, 0))  # the question has no weight
        return logits, weights[:, :, None]

    def text_ids(self, text: str, name: str) -> Tensor:
        ids = super().text_ids(text, name)
        if len(ids) - 1 > self.config.memories:
            raise VertebraError(
                f"{name} has {len(ids) - 1} sentences; the memory holds {self.config.memories}: raise memories, or "
                "leave out the earliest."
            )
        return ids


MODEL = MemoryClassifier
RECIPE = {
    **text_classifier.RECIPE,
    "lr": 0.01,
    "weight_decay": 0.0,
    "clip": 40.0,
    "data.path": "stories",
    "data.batch_size": 64,
    "epochs": 8,
}
SOURCES: dict[str, Any] = {}
