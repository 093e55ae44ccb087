"""Which memory is most similar to the query, whatever their lengths?

    score(q, k) = b cos(q, k)          w'_i = w_i^g / sum_j w_j^g

q, k: [D]; b > 0: the key strength, which makes the softmax of the cosines (in -1..1) narrower; w: weights; g >= 1: the
power that sharpens them. After a softmax alone both do the same: sharpening with g is a strength of g * b. So a
strength per query, as a controller emits it, is `sharpen` with a tensor.

Source: Neural Turing Machines, arXiv:1410.5401, equations 5, 6 (content) and 9 (sharpening).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vertebra.attention.scores.product import Factors, Product
from vertebra.errors import in_range

EPS = 1e-6
"""Of the norm of a vector of zeros, above 0 in float16."""


class Cosine(Product):
    """[..., Q, D] and [..., K, D] -> [..., Q, K], in -strength..strength.

    Source: arXiv:1410.5401, equations 5 and 6.
    """

    def __init__(self, strength: float = 1.0, learned: bool = False) -> None:
        """`strength` is above 0; a `learned` one begins there and stays above 0."""
        super().__init__()
        in_range("strength", strength, 1e-6)
        self.strength = strength
        self.log_factor = nn.Parameter(torch.zeros(())) if learned else None

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        query, key = normalize(query, dim=-1, eps=EPS), normalize(key, dim=-1, eps=EPS)
        if self.log_factor is not None:
            query = query * self.log_factor.exp()
        return Factors(query, key, self.strength)


def sharpen(weights: Tensor, power: Tensor | float) -> Tensor:
    """Weights [..., Q, K], to a power of 1 or more, again summing to 1; rows of zeros stay.

    `power` is broadcastable, [..., Q, 1] for one of each query.

    Source: arXiv:1410.5401, equation 9.
    """
    # Relative to the largest, since powers of small weights may be 0.
    powers = (weights / weights.amax(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)) ** power
    return powers / powers.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
