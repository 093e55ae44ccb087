"""How near is the key to the query? Attention with this score is kernel regression.

    score(q, k) = -|q - k|^2 / (2 s^2)        f(q) = sum_i K((q - k_i) / s) v_i / sum_j K((q - k_j) / s)

q, k: [D]; s > 0: the width of the Gaussian K, in the units of q and k; v: values. The softmax of the score is K over
its sum, so f, the Nadaraya-Watson estimate, is what `Attention(Gaussian(s))` returns.

Memory is Q * K * D numbers: expanding the square would save them, but lose digits of keys far from 0.

Sources: Nadaraya, On Estimating Regression, 1964; Watson, Smooth Regression Analysis, 1964. A learned width: Dive into
Deep Learning, arXiv:2106.11342, section 11.2 (attention pooling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.errors import in_range


class Gaussian(nn.Module):
    """[..., Q, D] and [..., K, D] -> [..., Q, K], 0 or less.

    Source: Nadaraya 1964, Watson 1964.
    """

    def __init__(self, sigma: float = 1.0, learned: bool = False) -> None:
        """`sigma`, the width s, is above 0; a `learned` one begins there and stays above 0."""
        super().__init__()
        in_range("sigma", sigma, 1e-6)
        self.sigma = sigma
        self.log_factor = nn.Parameter(torch.zeros(())) if learned else None

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        apart = (query.unsqueeze(-2) - key.unsqueeze(-3)) / self.sigma  # [..., Q, K, D]
        if self.log_factor is not None:
            apart = apart / self.log_factor.exp()
        # The squares of float16 overflow; a score of -inf for every key would have no softmax.
        scores = -0.5 * apart.to(torch.promote_types(apart.dtype, torch.float32)).square().sum(-1)
        return scores.clamp(min=torch.finfo(apart.dtype).min).to(apart.dtype)
