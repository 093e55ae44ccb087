"""Where does a decoder look, and how much does it look at all? A gate scales the attended context.

    z_t = beta_t sum_i a_ti x_i,   a_t = softmax_i(score(q_t, x_i)),   beta_t = sigmoid(w . q_t + b)
    P   = sum_i (1 - sum_t a_ti)^2

q_t: state of the decoder at step t; x_i: cell i of a feature map; P: penalty that makes the weights of every cell sum
to about 1 over the steps, as those of every step do over the cells.

Source: Show, Attend and Tell, arXiv:1502.03044, section 4.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from vertebra.attention.attention import Attention


class SoftAttention(Attention):
    """Attention whose output is scaled by a gate of the query.

    Source: arXiv:1502.03044, section 4.2.1.
    """

    def __init__(self, score: nn.Module, width: int) -> None:
        """`score`: (query [..., Q, D], key [..., K, D']) -> [..., Q, K]; `width` is D, that of the query."""
        super().__init__(score)
        self.gate = nn.Linear(width, 1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """[..., Q, D], [..., K, D'], [..., K, V] -> [..., Q, V].

        `mask` is bool, broadcastable to [..., Q, K], True = may attend; a row without any True is zero.
        """
        return self.gate(query).sigmoid() * super().forward(query, key, value, mask)


def coverage_penalty(weights: Tensor) -> Tensor:
    """P, the doubly stochastic regularisation: [..., T steps, K] -> [...], not negative.

    Rows of padded steps, and columns of padded cells, must be left out by the caller: the former count when they are
    not zero, the latter 1 each.

    Source: arXiv:1502.03044, section 4.2.1, equation 14.
    """
    return (1 - weights.sum(-2)).square().sum(-1)
