"""Which one element should a decoder see? The weights are probabilities, and one element is drawn from them.

    s_t ~ Multinoulli(a_t),   a_t = softmax_i(score(q_t, x_i)),   z_t = x_(s_t)
    gradient of  log p(y | s)  +  lambda_r (log p(y | s) - b) sum_t log p(s_t)  +  lambda_e sum_t H(a_t)
    b <- 0.9 b + 0.1 log p(y | s)

q_t: state of the decoder at step t; x_i: element i; log p(y | s): log-likelihood of the target, the reward of the
draws; b: its moving average, a baseline that lowers the variance; H: entropy. The factor of lambda_r has no gradient.

Source: Show, Attend and Tell, arXiv:1502.03044, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vertebra.attention.attention import Attention
from vertebra.errors import in_range


class Glimpse(NamedTuple):
    """A draw of `HardAttention`."""

    output: Tensor
    """[..., Q, V], the values drawn."""

    log_probability: Tensor
    """[..., Q], of the draws; 0 where nothing may be attended to."""

    entropy: Tensor
    """[..., Q], of the weights, in nats."""


class HardAttention(Attention):
    """Attention to one element: the most probable one, or in training one that `sample` draws.

    Source: arXiv:1502.03044, section 4.1.
    """

    def __init__(self, score: nn.Module, soft: float = 0.5) -> None:
        """`score`: (query [..., Q, D], key [..., K, D']) -> [..., Q, K].

        `soft` is the probability, in 0..1, with which `sample` takes the expected value of a sequence of queries in
        place of draws, which lowers the variance of the gradient.
        """
        super().__init__(score)
        in_range("soft", soft, 0, 1)
        self.soft = soft

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """The value of the largest weight, without a gradient to the score: -> [..., Q, V].

        `mask` is bool, broadcastable to [..., Q, K], True = may attend; a row without any True is zero.
        """
        weights = self.weights(query, key, mask)
        return _one_hot(weights.argmax(-1), weights) @ value

    def sample(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Glimpse:
        """Draws one element per query, from torch's generator; `Reinforce` makes the loss."""
        weights = self.weights(query, key, mask)
        # The largest of a / e, with e exponential, is i with probability a_i; unlike torch.multinomial, this takes any
        # leading dimensions and rows of zeros.
        drawn = _one_hot((weights / torch.empty_like(weights).exponential_()).argmax(-1), weights)
        soft = torch.rand(weights.shape[:-2], device=weights.device) < self.soft
        choice = torch.where(soft[..., None, None], weights, drawn)
        log = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        # For expected values, the gradient of sum_i a_i log a_i with the first factor constant is that of sum_i a_i: 0.
        return Glimpse(choice @ value, (choice.detach() * log).sum(-1), -(weights * log).sum(-1))


class Reinforce(nn.Module):
    """Loss that teaches `HardAttention` where to look; add it to the mean of the target's -log p(y | s).

    The baseline is a buffer and moves in training mode only.

    Source: arXiv:1502.03044, section 4.1; the default factors are those of the authors' code.
    """

    baseline: Tensor

    def __init__(self, reward_weight: float = 0.1, entropy_weight: float = 0.002) -> None:
        """lambda_r and lambda_e."""
        super().__init__()
        self.reward_weight, self.entropy_weight = reward_weight, entropy_weight
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, reward: Tensor, glimpse: Glimpse) -> Tensor:
        """The mean over sequences, a scalar; `reward` [...] is log p(y | s) of the sequences, glimpses are [..., T]."""
        reward = reward.detach()
        advantage = reward - self.baseline
        if self.training:
            self.baseline.lerp_(reward.mean().to(self.baseline.dtype), 0.1)
        gain = self.reward_weight * advantage * glimpse.log_probability.sum(-1)
        return -(gain + self.entropy_weight * glimpse.entropy.sum(-1)).mean()


def _one_hot(index: Tensor, weights: Tensor) -> Tensor:
    """[..., Q] -> [..., Q, K] of the weights' type, zero in the rows whose weights are."""
    places = torch.arange(weights.shape[-1], device=weights.device)
    return ((places == index[..., None]) & (weights > 0)).to(weights.dtype)
