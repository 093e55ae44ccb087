"""torch.nn.Transformer as a method of translation: embeddings, positions and tied logits around it, as a user would
write them. It has no cache of keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vertebra.attention.positions import Sinusoidal
from vertebra.ops.beam_search import State
from vertebra.structures import Preprocess
from vertebra.tasks.translation.transformer import RECIPE, SOURCES, Config
from vertebra.tasks.translator import Translator, embedding

__all__ = ["MODEL", "RECIPE", "SOURCES", "Config", "TorchTransformer"]


class TorchTransformer(Translator):
    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        width = config.width
        self.target_embedding = embedding(len(self.target), width)
        if config.tied != "all":
            self.source_embedding = embedding(len(self.source), width)
        self.position = Sinusoidal()
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            width,
            config.heads,
            config.depth,
            config.depth,
            config.feedforward,
            config.dropout,
            batch_first=True,
            norm_first=config.norm == "pre",
        )

    def embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        x: Tensor = self.dropout(self.position(table(ids) * math.sqrt(self.config.width)))
        return x

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        table = self.target_embedding if self.config.tied == "all" else self.source_embedding
        memory: Tensor = self.transformer.encoder(self.embed(table, source), src_key_padding_mask=~mask)
        return memory

    def teacher_forced(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        x = self.transformer.decoder(
            self.embed(self.target_embedding, tokens),
            memory,
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]),
            tgt_is_causal=True,
            memory_key_padding_mask=~mask,
        )
        return nn.functional.linear(x, self.target_embedding.weight)

    def start(self, memory: Tensor, mask: Tensor) -> tuple[State, State]:
        prefix = torch.zeros(len(memory), 0, dtype=torch.int64)
        return {"prefix": prefix}, {"memory": memory, "mask": mask}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        prefix = torch.cat((state["prefix"], tokens[:, None]), 1)
        logits = self.teacher_forced(context["memory"], context["mask"], prefix)[:, -1]
        return logits, logits.new_zeros(len(logits), 1), {"prefix": prefix}

    def align(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """None: the fused attention keeps no weights."""
        return memory.new_zeros(len(tokens), 1, 1, tokens.shape[1], mask.shape[1])


MODEL = TorchTransformer
