"""Which values does a query need, feature by feature? Every feature has a distribution over the positions.

    f(q, k_i) = W^T act(W1 k_i + W2 q + b1) + b        p_i = softmax_i(f)        output = sum_i p_i * v_i

q: [D] query; k: [D'] keys, v: [V] values; W: [hidden, V], W1: [hidden, D'], W2: [hidden, D], b1: learned; b:
learned too in the paper, but it cancels in the softmax; act: an activation, here ELU; f, p: [V], a score and a weight
for each feature; *: by feature.

A sequence that attends to itself is query, key and value (the paper's token2token). Its directions are masks: for the
forward one, `causal_mask(N) & ~torch.eye(N, dtype=torch.bool)`.

Source: DiSAN: Directional Self-Attention Network for RNN/CNN-Free Language Understanding, arXiv:1709.04696, section
"Multi-dimensional Attention".
"""

from __future__ import annotations

from torch import Tensor, nn

from vertebra.attention.softmax import masked_softmax


class MultiDimensionalAttention(nn.Module):
    """Query [..., Q, D], key [..., K, D'] and value [..., K, V] -> [..., Q, V].

    `mask` is bool, broadcastable to [..., Q, K], True = may attend; a query without any True has an output of 0.

    Source: arXiv:1709.04696, section "Multi-dimensional Attention".
    """

    def __init__(self, query_width: int, key_width: int, value_width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden, bias=False)  # W2
        self.key = nn.Linear(key_width, hidden)  # W1, b1
        self.score = nn.Linear(hidden, value_width, bias=False)  # W

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return (self.weights(query, key, mask) * value.unsqueeze(-3)).sum(-2)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the features of the values, summing to 1 over the keys: [..., Q, K, V]."""
        hidden = self.query(query).unsqueeze(-2) + self.key(key).unsqueeze(-3)  # [..., Q, K, hidden]
        scores = self.score(nn.functional.elu(hidden))
        return masked_softmax(scores, None if mask is None else mask.unsqueeze(-1), -2)
