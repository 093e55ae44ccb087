"""The Transformer: attention in place of recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vertebra.attention import Attention, MultiHeadAttention, SelfAttention
from vertebra.attention.multi_head import check_heads
from vertebra.attention.positions import Sinusoidal
from vertebra.errors import VertebraError, in_range
from vertebra.ops.beam_search import State
from vertebra.options import training_only
from vertebra.structures import Preprocess
from vertebra.tasks import translator
from vertebra.tasks.translator import Translator, TranslatorConfig, embedding


@dataclass(frozen=True)
class Config(TranslatorConfig):
    """The model, its training loss and its search; the paper's base model has width 512, heads 8, depth 6 and
    feedforward 2048."""

    width: int = 256
    """Channels of the embeddings and of all layers."""
    heads: int = 4
    """Heads of each attention; a divisor of the width."""
    depth: int = 3
    """Layers of the encoder, and of the decoder."""
    feedforward: int = 1024
    """Hidden channels of the feed-forward networks."""
    norm: Literal["pre", "post"] = "pre"
    """Whether layer norm stands before each block, and after the last, or after each sum, as in the paper; `post` needs
    a longer warm-up."""
    tied: Literal["none", "output", "all"] = "output"
    """What shares the weights of the target's embeddings: nothing, the layer of the logits, or the source's embeddings
    as well, which need data.shared_vocabulary."""
    label_smoothing: float = training_only(0.1)
    """Label smoothing, in 0..1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "feedforward"):
            in_range(name, getattr(self, name), 1, 65536)
        in_range("depth", self.depth, 1, 128)
        check_heads(self.width, self.heads)
        if self.width % 2:
            raise VertebraError(f"width is {self.width}; it must be even, for the sines and cosines of positions.")


class Residual(nn.Module):
    """x + dropout(block(norm(x))), or norm(x + dropout(block(x))); called with the block's output as a function."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def before(self, x: Tensor) -> Tensor:
        """The input of the block."""
        normed: Tensor = self.norm(x) if self.pre else x
        return normed

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of input and output of the block."""
        total: Tensor = x + self.dropout(y)
        return total if self.pre else self.norm(total)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between: [..., C] -> same.

    Source: arXiv:1706.03762, section 3.3.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, config.feedforward)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(config.feedforward, config.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.dropout(self.expand(x).relu()))
        return y


class EncoderLayer(nn.Module):
    """[B, S, C], mask [B, 1, S] -> [B, S, C].

    Source: arXiv:1706.03762, section 3.1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.around_attention = Residual(config)
        self.feedforward = FeedForward(config)
        self.around_feedforward = Residual(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        around = self.around_attention
        x = around.after(x, self.attention(around.before(x), mask))
        around = self.around_feedforward
        return around.after(x, self.feedforward(around.before(x)))


class DecoderLayer(nn.Module):
    """[B, T, C], memory [B, S, C], mask [B, 1, S] -> [B, T, C].

    Source: arXiv:1706.03762, section 3.1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, Attention(causal=True))
        self.around_attention = Residual(config)
        self.source_attention = MultiHeadAttention(config.width, config.heads)
        self.around_source = Residual(config)
        self.feedforward = FeedForward(config)
        self.around_feedforward = Residual(config)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """
        Args:
            x: [B, T, C], the tokens after those of `past`.
            keys, values: of the memory, by `source_attention.project_keys`.
            mask: [B, 1, S] bool.
            past: keys and values of earlier tokens, [B, heads, P, C / heads] each.

        Returns:
            the output, the keys and values of all tokens so far, and the queries of the attention to the source.
        """
        around = self.around_attention
        y, past = self.attention.extend(around.before(x), past)
        x = around.after(x, y)
        around = self.around_source
        query = around.before(x)
        x = around.after(x, self.source_attention.attend(query, keys, values, mask))
        around = self.around_feedforward
        return around.after(x, self.feedforward(around.before(x))), past, query


class Transformer(Translator):
    """Source ids [B, S] -> memory [B, S, width] and the source ids.

    Source: arXiv:1706.03762; layer norm before the blocks: arXiv:2002.04745.
    """

    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        width = config.width
        self.target_embedding = embedding(len(self.target), width)
        if config.tied == "all":
            if config.source_vocabulary != config.target_vocabulary:
                raise VertebraError("tied is all, but the vocabularies differ: train with data.shared_vocabulary.")
        else:
            self.source_embedding = embedding(len(self.source), width)
        self.position = Sinusoidal()
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        pre = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        if config.tied == "none":
            self.head = nn.Linear(width, len(self.target))
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                nn.init.xavier_uniform_(parameter)

    def _embed(self, table: nn.Embedding, ids: Tensor, start: int = 0) -> Tensor:
        x: Tensor = self.dropout(self.position(table(ids) * math.sqrt(self.config.width), start))
        return x

    def _logits(self, x: Tensor) -> Tensor:
        x = self.decoder_norm(x)
        if self.config.tied == "none":
            logits: Tensor = self.head(x)
            return logits
        return nn.functional.linear(x, self.target_embedding.weight)

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        table = self.target_embedding if self.config.tied == "all" else self.source_embedding
        x = self._embed(table, source)
        for layer in self.encoder:
            x = layer(x, mask[:, None])
        memory: Tensor = self.encoder_norm(x)
        return memory

    def _run(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The decoder's output [B, T, C] before the logits, and the queries of each layer's attention to the source."""
        x, queries = self._embed(self.target_embedding, tokens), []
        for layer in self._decoder_layers():
            x, _, query = layer(x, *layer.source_attention.project_keys(memory, memory), mask[:, None])
            queries.append(query)
        return x, queries

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def teacher_forced(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        return self._logits(self._run(memory, mask, tokens)[0])

    def align(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        _, queries = self._run(memory, mask, tokens)
        pairs = zip(self._decoder_layers(), queries, strict=True)
        return torch.stack([layer.source_attention.weights(query, memory, mask[:, None]) for layer, query in pairs], 1)

    def start(self, memory: Tensor, mask: Tensor) -> tuple[State, State]:
        """No keys and values of tokens yet, and those of the memory, by layer."""
        state: State = {}
        context: State = {"mask": mask[:, None]}
        for i, layer in enumerate(self._decoder_layers()):
            context[f"keys.{i}"], context[f"values.{i}"] = layer.source_attention.project_keys(memory, memory)
            none = context[f"keys.{i}"][:, :, :0]
            state[f"keys.{i}"], state[f"values.{i}"] = none, none
        return state, context

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        x = self._embed(self.target_embedding, tokens[:, None], state["keys.0"].shape[2])
        after: State = {}
        for i, layer in enumerate(self._decoder_layers()):
            past = state[f"keys.{i}"], state[f"values.{i}"]
            x, past, query = layer(x, context[f"keys.{i}"], context[f"values.{i}"], context["mask"], past)
            after[f"keys.{i}"], after[f"values.{i}"] = past
        weights = self._last_weights(query, context) if self.config.coverage_penalty else query.new_zeros(len(x), 1)
        return self._logits(x)[:, 0], weights, after

    def _last_weights(self, query: Tensor, context: State) -> Tensor:
        """Attention to the source of the last layer, the mean of its heads: [N, S]."""
        last = self._decoder_layers()[-1].source_attention
        return last.head_weights(query, context[f"keys.{len(self.decoder) - 1}"], context["mask"]).mean(1)[:, 0]


MODEL = Transformer
RECIPE = {**translator.RECIPE, "lr": 0.001, "warmup": 2}
SOURCES: dict[str, Any] = {}
