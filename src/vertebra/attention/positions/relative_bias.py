"""How far is the key from the query, along each axis? A learned bias per offset tells, one for every head.

    score(q_m, k_n) = q_m . k_n / sqrt(D) + B[m - n]

q, k: [D]; m, n: their positions, on a map (row, column); B: a table with a row for each of the 2M - 1 offsets that M
positions have, on a map (2M - 1)^2.

Sources: Swin Transformer, arXiv:2103.14030, equation 4; on sequences, Exploring the Limits of Transfer Learning (T5),
arXiv:1910.10683, section 2.1, there with a row for a range of offsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vertebra.attention.scores.product import Factors
from vertebra.attention.scores.scaled_dot import ScaledDot
from vertebra.errors import VertebraError


class RelativeBias(ScaledDot):
    """The scaled dot product with a bias: [..., heads, Q, D] and [..., heads, K, D] -> [..., heads, Q, K].

    Positions are row-major. Keys are at the first K of them, and the queries are the last Q of the keys. More keys than
    positions, more queries than keys, and another number of heads raise VertebraError.

    Source: arXiv:2103.14030, equation 4.
    """

    index: Tensor

    def __init__(self, size: Sequence[int], heads: int) -> None:
        """`size` is (N,) of the longest sequence, or (rows, columns) of a map or window."""
        super().__init__()
        self.size = tuple(size)
        self.bias_table = bias_table(size, heads)
        self.register_buffer("index", relative_index(size), persistent=False)

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        queries, keys, positions = query.shape[-2], key.shape[-2], math.prod(self.size)
        if keys > positions:
            raise VertebraError(f"there are {keys} keys, and biases for the first {positions} positions only.")
        if queries > keys:
            raise VertebraError(f"there are {queries} queries and {keys} keys; each query has the place of a key.")
        heads = self.bias_table.shape[1]
        if heads > 1 and (query.ndim < 3 or query.shape[-3] != heads):
            raise VertebraError(f"the query is {list(query.shape)}, and biases are for [..., {heads} heads, Q, D].")
        bias = relative_bias(self.bias_table, self.index)
        return Factors(query, key, None, bias[:, keys - queries : keys, :keys].to(query.dtype))


def bias_table(size: Sequence[int], heads: int) -> nn.Parameter:
    """A bias for each offset and head, [offsets, heads], of deviation 0.02."""
    offsets = math.prod(2 * side - 1 for side in size)
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(offsets, heads), std=0.02))


def relative_bias(table: Tensor, index: Tensor) -> Tensor:
    """The table [offsets, heads] for each pair of positions, by `relative_index`: [heads, positions, positions]."""
    positions = math.isqrt(len(index))
    return table[index].view(positions, positions, -1).permute(2, 0, 1)


def relative_index(size: Sequence[int]) -> Tensor:
    """Row of the table for each pair of positions, [positions ** 2].

    For a map of M x M, (dy + M - 1) * (2M - 1) + dx + M - 1, the offset being that of the first from the second.
    """
    return torch.tensor(_relative_index(tuple(size)))


@lru_cache(64)  # the blocks of a stage have the same
def _relative_index(size: tuple[int, ...]) -> NDArray[np.int64]:
    index: Any = 0
    for place, side in zip(np.indices(size).reshape(len(size), -1), size, strict=True):
        index = index * (2 * side - 1) + place[:, None] - place + side - 1
    return index.ravel()
