"""Scores that are products of two vectors, which the fused kernels of torch compute."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Factors(NamedTuple):
    """score = scale * query @ key^T + bias."""

    query: Tensor  # [..., Q, D]
    key: Tensor  # [..., K, D]
    scale: float | None = None  # None is 1 / sqrt(D)
    bias: Tensor | None = None  # broadcastable to [..., Q, K]


class Product(nn.Module):
    """A score with `factors`: [..., Q, D] and [..., K, D'] -> [..., Q, K]."""

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        raise NotImplementedError

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        query, key, scale, bias = self.factors(query, key)
        # The query is scaled, and not the product, which may exceed the range of float16.
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        return scores if bias is None else scores + bias
