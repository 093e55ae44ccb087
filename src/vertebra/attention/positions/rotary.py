"""How far is the key from the query? Turning both by their positions puts the distance into their product.

    score(q_m, k_n) = (R_m q_m) . (R_n k_n) / sqrt(D) = q_m^T R_(n - m) k_n / sqrt(D)

q, k: [D], D even; m, n: their positions; R_m: turns the pair of components (2i, 2i + 1) by m / 10000^(2i / D).

Source: RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864, equations 14 to 16 and 34.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vertebra.attention.positions.sinusoidal import wave_angles
from vertebra.attention.scores.product import Factors, Product


class Rotary(Product):
    """The scaled dot product of turned vectors: [..., Q, D] and [..., K, D] -> [..., Q, K].

    Keys are at positions 0 .. K - 1, and the queries are the last Q of them. With heads, every head is turned alike.

    Source: arXiv:2104.09864, equation 16.
    """

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        return Factors(rotate(query, start=key.shape[-2] - query.shape[-2]), rotate(key))


def rotate(x: Tensor, start: int = 0) -> Tensor:
    """Turns the pairs of components by their positions, which begin at `start`: [..., N, D] -> same.

    Source: arXiv:2104.09864, equation 34.
    """
    angles = wave_angles(x.shape[-2], x.shape[-1], start, x.device)
    sine, cosine = angles.sin().to(x.dtype), angles.cos().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), -1).flatten(-2)
