"""Captioning with soft attention: for every word the mean of all cells by their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vertebra.attention import SoftAttention, coverage_penalty, scores
from vertebra.backbones import Backbone
from vertebra.errors import in_range
from vertebra.options import training_only
from vertebra.structures import Preprocess, Target
from vertebra.tasks import captioner
from vertebra.tasks.captioner import Captioner, CaptionerConfig
from vertebra.tasks.text_task import padded_tokens
from vertebra.text import PAD


@dataclass(frozen=True)
class Config(CaptionerConfig):
    """The model, its training loss and its search."""

    penalty: float = training_only(0.01)
    """Weight of the penalty on cells that no word, or several, look at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("penalty", self.penalty, 0, 1000)


class SoftCaptioner(Captioner):
    """[B, C, H, W] -> the cells [B, width, h, w] of the backbone's last map.

    Source: Show, Attend and Tell, arXiv:1502.03044, section 4.2.
    """

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess, backbone)
        self.attention = SoftAttention(scores.Additive(config.width, config.width, config.width), config.width)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy in nats per token, and the weighted penalty per cell, the mean over images."""
        tokens = padded_tokens(targets, len(self.vocabulary))
        cells = self.cells_of(images)
        logits, queries, _ = self.teacher_forced(cells, tokens)
        weights = self.attention.weights(queries, cells)
        mask = tokens != PAD
        penalty = coverage_penalty(weights.float() * mask[..., None]).mean() / weights.shape[2]
        loss = self.token_loss(logits, tokens).sum() / mask.sum()
        return {"caption": loss, "penalty": self.config.penalty * penalty}


MODEL = SoftCaptioner
RECIPE = {**captioner.RECIPE}
SOURCES: dict[str, Any] = {}
