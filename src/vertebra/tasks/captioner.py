"""What the methods of captioning share: a backbone's last map, and a decoder that looks at it for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.attention import Attention
from vertebra.attention.hard import Glimpse
from vertebra.backbones import Backbone
from vertebra.errors import in_range
from vertebra.ops.beam_search import State, beam_search, repeated
from vertebra.options import adjustable, training_only
from vertebra.structures import Frame, Prediction, Preprocess
from vertebra.tasks.base import Size
from vertebra.tasks.text_task import shifted, vocabulary_of
from vertebra.tasks.trunk import TrunkConfig, TrunkTask
from vertebra.text import PAD

if TYPE_CHECKING:
    from vertebra.metrics.translation import TranslationMetrics


@dataclass(frozen=True)
class CaptionerConfig(TrunkConfig):
    """Backbone, decoder, loss and search."""

    vocabulary: str = ""
    """Vocabulary as the package tokenizers writes it, learned from the training captions; bytes if empty."""
    width: int = 256
    """Channels of the embeddings, of the decoder's state and of the attention."""
    dropout: float = training_only(0.1)
    """Dropout rate before the logits."""
    beam: int = adjustable(3)
    """Hypotheses of the beam search; 1 takes the most probable token at each step (greedy)."""
    length_penalty: float = adjustable(0.6)
    """Exponent of the length by which log probabilities are divided in the beam search; 0 prefers short captions."""
    max_tokens: int = adjustable(40)
    """Tokens of the longest caption."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("width", self.width, 1, 65536)
        in_range("dropout", self.dropout, 0, 0.99)
        in_range("beam", self.beam, 1, 100)
        in_range("length_penalty", self.length_penalty, 0, 100)
        in_range("max_tokens", self.max_tokens, 1, 1000)


class Captioner(TrunkTask):
    """[B, C, H, W] -> the cells [B, width, h, w] of the backbone's last map; `decode` searches the captions in it.

        h_t = LSTM(h_(t-1), [y_(t-1); z_t])    z_t = attention(h_(t-1), cells)    p(y_t) = softmax(W_o tanh(
        y_(t-1) + W_h h_t + W_z z_t))

    y: embedded tokens; z: what the attention reads. The first state comes from the mean of the cells.
    A method sets `attention` and has `loss`.

    Source: Show, Attend and Tell, arXiv:1502.03044, section 3.1.
    """

    kind = "captions"
    monitor = "bleu"
    fixed_classes = ("caption",)
    target_fields = ("tokens",)
    decodes_with_weights = True
    attention: Attention
    unused_parameters = True  # such as the norms of maps that the decoder does not read

    def __init__(
        self, config: Any, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.vocabulary = vocabulary_of(config.vocabulary)
        width, tokens = config.width, len(self.vocabulary)
        self.project = nn.Conv2d(self.backbone.levels[-1].channels, width, 1)
        self.initial = nn.Linear(width, 2 * width)
        self.embedding = nn.Embedding(tokens, width)
        self.cell = nn.LSTMCell(2 * width, width)
        self.of_state = nn.Linear(width, width)
        self.of_glimpse = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, tokens)

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """The whole image: a centre crop could cut off what a caption is about."""
        return dataclasses.replace(super().default_preprocess(known, config), crop=1.0, resize="squash")

    # -- of a method

    def look(self, query: Tensor, cells: Tensor) -> Glimpse:
        """What is read of cells [B, N, width] for queries [B, 1, width]: the expected value."""
        output = self.attention(query, cells, cells)
        return Glimpse(output, output.new_zeros(len(output), 1), output.new_zeros(len(output), 1))

    # -- of the task

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        return (self.project(self.backbone(images)[-1]),)

    def start(self, cells: Tensor) -> State:
        """The decoder's state before its first step, of cells [B, N, width]."""
        hidden, memory = self.initial(cells.mean(1)).tanh().chunk(2, 1)
        return {"hidden": hidden, "memory": memory}

    def advance(self, tokens: Tensor, state: State, cells: Tensor) -> tuple[Tensor, Glimpse, State]:
        """Last tokens [B] and the state to logits [B, V], what was read, and the next state."""
        embedded = self.embedding(tokens)
        glimpse = self.look(state["hidden"][:, None], cells)
        read = glimpse.output[:, 0]
        hidden, memory = self.cell(torch.cat((embedded, read), 1), (state["hidden"], state["memory"]))
        joined = (embedded + self.of_state(hidden) + self.of_glimpse(read)).tanh()
        return self.head(self.dropout(joined)), glimpse, {"hidden": hidden, "memory": memory}

    def teacher_forced(self, cells: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[Glimpse]]:
        """Logits [B, T, V] of `tokens` [B, T], the queries [B, T, width] of the attention and what each read."""
        state, logits, queries, glimpses = self.start(cells), [], [], []
        before = shifted(tokens)
        for step in range(tokens.shape[1]):
            queries.append(state["hidden"])
            of_step, glimpse, state = self.advance(before[:, step], state, cells)
            logits.append(of_step)
            glimpses.append(glimpse)
        return torch.stack(logits, 1), torch.stack(queries, 1), glimpses

    def cells_of(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, width]."""
        cells: Tensor = self(images)[0].flatten(2).transpose(1, 2)
        return cells

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        maps = raw[0]
        size, cells = maps.shape[-2:], maps.flatten(2).transpose(1, 2)
        state = repeated(self.start(cells), self.config.beam)
        context = repeated({"cells": cells}, self.config.beam)
        hypotheses = beam_search(
            partial(self._step, context=context),
            state,
            torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device),
            beam=self.config.beam,
            max_lengths=torch.full((len(cells),), self.config.max_tokens, device=cells.device),
            length_penalty=self.config.length_penalty,
        )
        queries = self.teacher_forced(cells, hypotheses.tokens)[1]
        looks = self.attention.weights(queries, cells).float().cpu().unflatten(2, size)  # [B, T, h, w]
        predictions = []
        for tokens, of_image in zip(hypotheses.tokens.cpu(), looks, strict=True):
            tokens = tokens[tokens != PAD]
            words = self.vocabulary.tokens(tokens)
            text = self.vocabulary.decode(tokens)
            predictions.append(Prediction(text=text, tokens=tokens, words=words, looks=of_image[: len(tokens)]))
        return predictions

    def _step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        """See `beam_search.Step`."""
        weights = self.attention.weights(state["hidden"][:, None], context["cells"])[:, 0]
        logits, _, after = self.advance(tokens, state, context["cells"])
        return logits, weights, after

    def token_loss(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Cross-entropy of each token, 0 of padding: [B, T, V], [B, T] -> [B, T]."""
        return nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens, ignore_index=PAD, reduction="none")

    def metrics(self, **options: Any) -> TranslationMetrics:
        from vertebra.metrics.translation import TranslationMetrics  # with torchmetrics, which prediction does not need

        return TranslationMetrics(**options)


RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "clip": 5.0,
    "warmup": 1.0,
    "data.path": "shapes",
    "data.batch_size": 32,
}
"""Training settings of all methods."""
