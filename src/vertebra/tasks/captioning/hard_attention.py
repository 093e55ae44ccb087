"""Captioning with hard attention: for every word one cell, which in training is drawn by the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vertebra.attention import HardAttention, Reinforce, scores
from vertebra.attention.hard import Glimpse
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

    soft: float = training_only(0.5)
    """Share of the steps of training that read the expected value in place of a drawn cell, in 0..1."""
    reward_weight: float = training_only(0.1)
    """Factor of the reward, the log-likelihood of the caption less its moving average."""
    entropy_weight: float = training_only(0.002)
    """Factor of the entropy of the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("soft", self.soft, 0, 1)
        for name in ("reward_weight", "entropy_weight"):
            in_range(name, getattr(self, name), 0, 1000)


class HardCaptioner(Captioner):
    """[B, C, H, W] -> the cells [B, width, h, w] of the backbone's last map.

    Source: Show, Attend and Tell, arXiv:1502.03044, section 4.1.
    """

    attention: HardAttention

    def __init__(
        self, config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess, backbone)
        self.attention = HardAttention(scores.Additive(config.width, config.width, config.width), config.soft)
        self.reinforce = Reinforce(config.reward_weight, config.entropy_weight)

    def look(self, query: Tensor, cells: Tensor) -> Glimpse:
        if self.training:
            return self.attention.sample(query, cells, cells)
        return super().look(query, cells)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy in nats per token, and the loss of where the model looks (REINFORCE), per token too."""
        tokens = padded_tokens(targets, len(self.vocabulary))
        logits, _, glimpses = self.teacher_forced(self.cells_of(images), tokens)
        mask = tokens != PAD
        losses = self.token_loss(logits, tokens)
        log_probability = torch.cat([glimpse.log_probability for glimpse in glimpses], 1) * mask
        entropy = torch.cat([glimpse.entropy for glimpse in glimpses], 1) * mask
        drawn = Glimpse(glimpses[0].output, log_probability.float(), entropy.float())
        reinforce = self.reinforce(-losses.sum(1), drawn) * len(tokens) / mask.sum()
        return {"caption": losses.sum() / mask.sum(), "reinforce": reinforce}


MODEL = HardCaptioner
RECIPE = {**captioner.RECIPE}
SOURCES: dict[str, Any] = {}
