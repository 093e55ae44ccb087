"""Which few source positions matter at this step? A window around one position, instead of the whole source.

    p_t = t                                                      local-m, monotonic
    p_t = S sigmoid(v . tanh(W q_t))                             local-p, predictive
    a_t(s) = softmax_s(score(q_t, k_s))      for |s - p_t| <= D
    a_t(s) = softmax_s(score(q_t, k_s)) exp(-(s - p_t)^2 / (2 sigma^2)),  sigma = D / 2      local-p

q_t: target state t; k_s: source state s, counted from 0; S: length of the source; D: half of the window's width.
Global attention, which has no window, is `Attention(score)`.

Source: Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025, section 3.2, equations 9
and 10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.attention.attention import Attention
from vertebra.errors import in_range


class LocalMonotonicAttention(Attention):
    """Attention within D positions of the query's own: local-m.

    Source: arXiv:1508.04025, section 3.2.
    """

    def __init__(self, score: nn.Module, half_window: int) -> None:
        """`score`: (query [..., Q, D], key [..., K, D']) -> [..., Q, K]; a window has 2 * half_window + 1 positions."""
        super().__init__(score)
        in_range("half_window", half_window, 1)
        self.half_window = half_window

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, start: int = 0) -> Tensor:
        """[..., Q, D], [..., K, D'], [..., K, V] -> [..., Q, V].

        `mask` is bool, broadcastable to [..., Q, K], True = may attend; a row without any True is zero. `start` is the
        position of the first query: t, when a decoder calls step by step.
        """
        return super().forward(query, key, value, self._window(query, key, mask, start))

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None, start: int = 0) -> Tensor:
        """Attention weights [..., Q, K], rows summing to 1; rows whose window lies behind the source are zero."""
        return super().weights(query, key, self._window(query, key, mask, start))

    def _window(self, query: Tensor, key: Tensor, mask: Tensor | None, start: int) -> Tensor:
        """The keys in the windows that `mask` allows."""
        center = torch.arange(start, start + query.shape[-2], device=query.device)
        near = _distance(key, center).abs() <= self.half_window
        return near if mask is None else near & mask


class LocalPredictiveAttention(Attention):
    """Attention around a predicted position, with a Gaussian that falls with the distance from it: local-p.

    Source: arXiv:1508.04025, section 3.2, equations 9 and 10.
    """

    def __init__(self, score: nn.Module, width: int, half_window: int) -> None:
        """`score` as for local-m; `width` is D, that of the query."""
        super().__init__(score)
        in_range("half_window", half_window, 1)
        self.half_window = half_window
        self.position = nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """[..., Q, D], [..., K, D'], [..., K, V] -> [..., Q, V].

        `mask` is bool, broadcastable to [..., Q, K], True = may attend; a row without any True is zero. The source is
        as long as a row has True; padding follows it.
        """
        return self.weights(query, key, mask) @ value

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights [..., Q, K]. The Gaussian comes after the softmax, so that rows sum to less than 1."""
        distance = _distance(key, self.centers(query, key, mask))
        near = distance.abs() <= self.half_window
        weights = super().weights(query, key, near if mask is None else near & mask)
        return weights * (-2 * (distance / self.half_window).square()).exp().to(weights.dtype)  # sigma is D / 2

    def centers(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """The predicted positions p_t, in 0..S: [..., Q]."""
        logits = self.position(query).squeeze(-1)
        # Half precision cannot tell neighbouring positions of a long source.
        share = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        if mask is None:
            return share * key.shape[-2]
        return share * mask.expand(*mask.shape[:-1], key.shape[-2]).sum(-1)


def _distance(key: Tensor, center: Tensor) -> Tensor:
    """s - p_t: [..., Q] -> [..., Q, K]."""
    return torch.arange(key.shape[-2], device=key.device) - center[..., None]
