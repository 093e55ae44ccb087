"""Which elements represent a whole sequence, when there is no query? `hops` learned distributions select them.

    A = softmax(W2 tanh(W1 H^T))
    M = A H
    P = ||A A^T - I||^2

H: [N, C] the sequence; W1: [hidden, C]; W2: [hops, hidden]; A: [hops, N] the weights; M: [hops, C] the embedding;
P: the penalty, in the squared Frobenius norm, on hops that attend to the same elements.

Source: A Structured Self-attentive Sentence Embedding, arXiv:1703.03130, equations 6 to 8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.attention.softmax import masked_softmax


class StructuredAttention(nn.Module):
    """Embedding of a sequence by several learned distributions: [..., N, C] -> [..., hops, C].

    Source: arXiv:1703.03130, equations 6 and 7.
    """

    def __init__(self, width: int, hidden: int, hops: int, bias: bool = False) -> None:
        """`bias` adds one to W1 H^T; the paper has none."""
        super().__init__()
        self.hidden = nn.Linear(width, hidden, bias=bias)
        self.hops = nn.Linear(hidden, hops, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is bool, broadcastable to [..., hops, N], True = may attend; without any True, the row is zero."""
        return self.weights(x, mask) @ x

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """A, rows summing to 1: [..., N, C] -> [..., hops, N]."""
        return masked_softmax(self.hops(self.hidden(x).tanh()).transpose(-2, -1), mask)


def overlap_penalty(weights: Tensor) -> Tensor:
    """P, the squared Frobenius norm of A A^T - I: [..., hops, N] -> [...], not negative.

    It is 0 when every hop attends to one element, and no two to the same.

    Source: arXiv:1703.03130, equation 8.
    """
    identity = torch.eye(weights.shape[-2], dtype=weights.dtype, device=weights.device)
    return (weights @ weights.transpose(-2, -1) - identity).square().sum((-2, -1))
