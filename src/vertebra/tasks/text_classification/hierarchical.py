"""Hierarchical attention: which sentences matter in a text, and which words in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vertebra.attention import HierarchicalAttention
from vertebra.errors import in_range
from vertebra.structures import Preprocess
from vertebra.tasks import text_classifier
from vertebra.tasks.text_classifier import TextClassifier, TextClassifierConfig, embedding


@dataclass(frozen=True)
class Config(TextClassifierConfig):
    """The model and its training loss; the paper's has width 200 and hidden 50."""

    width: int = 64
    """Channels of the embeddings."""
    hidden: int = 50
    """Channels of each recurrent layer in one direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("width", self.width, 1, 65536)
        in_range("hidden", self.hidden, 1, 65536)


class Hierarchical(TextClassifier):
    """Token ids [B, R, W] -> logits [B, num_classes], weights [B, 1, 1, R, W] and the ids.

    The weight of a word is its weight in the sentence times that of the sentence.

    Source: Hierarchical Attention Networks for Document Classification (Yang et al., NAACL 2016), section 2.2.
    """

    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.embedding = embedding(len(self.vocabulary), config.width)
        self.attention = HierarchicalAttention(config.width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, len(self.classes))

    def read(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        document, of_words, of_sentences = self.attention.read(self.dropout(self.embedding(words)), mask)
        weights = of_words * of_sentences[..., None]  # [B, R, W]
        return self.head(self.dropout(document)), weights[:, None, None]


MODEL = Hierarchical
RECIPE = {**text_classifier.RECIPE}
SOURCES: dict[str, Any] = {}
