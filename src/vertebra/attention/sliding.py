"""Which values does a query need among its neighbours, at a cost that grows with the length? Those up to a radius away.

    a_i = softmax over |m - n_i| <= r of score(q_m, k_n_i)        output = sum_i a_i v_i

q, k, v: query, key and value of one sequence; m, n: their positions; r: the radius; causal: n <= m as well.

The sequence is cut into blocks of queries; the keys of a block are those between r before and r after it. So the cost
is linear in the length, while masking full attention, which `weights` does, stays quadratic.

Source: Longformer: The Long-Document Transformer, arXiv:2004.05150, section 3.1, sliding window.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vertebra.attention.attention import fused
from vertebra.attention.masks import is_near, sliding_mask
from vertebra.attention.positions.relative_bias import RelativeBias
from vertebra.attention.scores.location import Location
from vertebra.attention.scores.product import Factors, Product
from vertebra.attention.scores.scaled_dot import ScaledDot
from vertebra.attention.softmax import masked_softmax
from vertebra.attention.window import cropped
from vertebra.errors import VertebraError, in_range

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 32
"""Queries of a block at least; more than a short radius needs, for larger products."""


class SlidingAttention(nn.Module):
    """Query [..., N, D], key [..., N, D'] and value [..., N, V] -> [..., N, V].

    `mask` is bool, broadcastable to [..., 1, N], True = the key may be attended; a query without any True has an output
    of 0. Fewer queries than keys are the last positions of the keys. On CUDA, torch's FlexAttention computes scores
    that are products, unless there is a mask.

    Source: arXiv:2004.05150, section 3.1.
    """

    def __init__(self, radius: int, score: nn.Module | None = None, causal: bool = False) -> None:
        """`radius` is the largest distance, in positions; `score`, by default ScaledDot, is one of
        `vertebra.attention.scores` or Rotary."""
        super().__init__()
        in_range("radius", radius, 0)
        if isinstance(score, Location | RelativeBias):
            raise VertebraError(
                f"{type(score).__name__} scores places of a sequence as a whole, and sliding attention parts of it; "
                f"Rotary knows positions there."
            )
        self.radius, self.causal = radius, causal
        self.score = ScaledDot() if score is None else score

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if query.shape[-2] != key.shape[-2]:  # as when a decoder calls step by step
            return self.weights(query, key, mask) @ value
        factors = None
        if isinstance(self.score, Product):
            factors = self.score.factors(query, key)
            if query.is_cuda and query.ndim == 4 and mask is None and not torch.compiler.is_exporting():
                return flex(factors, value, self.radius, self.causal)
            query, key = factors.query, factors.key
        queries, keys = self._queries(query), self._keys(key)
        values, allowed = self._keys(value), self._allowed(query, mask)
        if factors is None:
            y = masked_softmax(self.score(queries, keys), allowed) @ values
        else:
            y = fused(Factors(queries, keys, factors.scale), values, allowed)
        return cropped(y.flatten(-3, -2), query.shape[-2], -2)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the values, rows summing to 1: [..., N, N], at a quadratic cost."""
        queries, keys = query.shape[-2], key.shape[-2]
        if queries > keys:
            raise VertebraError(f"there are {queries} queries and {keys} keys; each query has the place of a key.")
        near = sliding_mask(keys, self.radius, self.causal, query.device)[keys - queries :]
        return masked_softmax(self.score(query, key), near if mask is None else near & mask)

    def _queries(self, x: Tensor) -> Tensor:
        """[..., N, D] -> [..., blocks, block, D]."""
        block = max(self.radius, BLOCK)
        return nn.functional.pad(x, (0, 0, 0, -x.shape[-2] % block)).unflatten(-2, (-1, block))

    def _keys(self, x: Tensor) -> Tensor:
        """[..., N, D] -> [..., blocks, radius + block + radius, D], without the last if causal."""
        block, after = max(self.radius, BLOCK), 0 if self.causal else self.radius
        x = nn.functional.pad(x, (0, 0, self.radius, -x.shape[-2] % block + after))
        return x.unfold(-2, self.radius + block + after, block).transpose(-2, -1)

    def _allowed(self, query: Tensor, mask: Tensor | None) -> Tensor:
        """[..., blocks, block, keys of a block]."""
        length, block = query.shape[-2], max(self.radius, BLOCK)
        keys = torch.ones(1, length, dtype=torch.bool, device=query.device)
        keys = keys if mask is None else keys & mask
        if keys.shape[-2] != 1:
            raise VertebraError(
                f"the mask has the shape {list(keys.shape)}; sliding attention takes one of keys, [..., 1, {length}]."
            )
        keys = self._keys(keys.transpose(-2, -1)).transpose(-2, -1)  # [..., blocks, 1, keys of a block]
        distance = torch.arange(block, device=query.device)[:, None] - torch.arange(keys.shape[-1], device=query.device)
        return keys & is_near(distance + self.radius, self.radius, self.causal)


def flex(factors: Factors, value: Tensor, radius: int, causal: bool) -> Tensor:
    """Sliding attention by FlexAttention: [B, heads, N, D] each -> [B, heads, N, V]. It compiles at its first call.

    Source: Flex Attention: A Programming Model for Generating Optimized Attention Kernels, arXiv:2412.05496.
    """
    block_mask = _block_mask(value.shape[-2], radius, causal, value.device)
    return _compiled()(factors.query, factors.key, value, block_mask=block_mask, scale=factors.scale)


@cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # importing it takes a second

    return torch.compile(flex_attention)


@cache
def _block_mask(length: int, radius: int, causal: bool, device: torch.device) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return is_near(query - key, radius, causal)

    return create_block_mask(near, None, None, length, length, device=str(device))
