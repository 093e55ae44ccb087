"""Which values does a query need? The mean of all, weighted by how well their keys match the query.

    a_i = exp(score(q, k_i)) / sum_j exp(score(q, k_j))        output = sum_i a_i v_i

q: [D] query; k: [D'] keys, v: [V] values, one per position; a: weights over the positions that the mask allows.

Sources: Neural Machine Translation by Jointly Learning to Align and Translate, arXiv:1409.0473, equations 5 and 6; with
the scaled dot product, Attention Is All You Need, arXiv:1706.03762, equation 1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vertebra.attention.masks import causal_mask
from vertebra.attention.scores.product import Factors, Product
from vertebra.attention.scores.scaled_dot import ScaledDot
from vertebra.attention.softmax import masked_softmax

SHORT = 160
"""Keys up to which the gradient of plain products is faster in half precision on CPUs; see benchmarks/RESULTS.md."""


class Attention(nn.Module):
    """Query [..., Q, D], key [..., K, D'] and value [..., K, V] -> [..., Q, V].

    `mask` is bool, broadcastable to [..., Q, K], True = may attend; a query without any True has an output of 0.

    Source: arXiv:1409.0473, equation 5.
    """

    def __init__(self, score: nn.Module | None = None, causal: bool = False) -> None:
        """`score` is one of `vertebra.attention.scores`, by default ScaledDot. With `causal`, a query attends to its
        position and those before it, the queries being the last positions of the keys."""
        super().__init__()
        self.score = ScaledDot() if score is None else score
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if isinstance(self.score, Product):
            return fused(self.score.factors(query, key), value, mask, self.causal)
        return Attention.weights(self, query, key, mask) @ value  # those of a subclass may take more than the mask

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the values, rows summing to 1: [..., Q, K]."""
        if self.causal:
            mask = _causal(query, key, mask)
        return masked_softmax(self.score(query, key), mask)


def fused(factors: Factors, value: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention by torch's fused kernels, with the arguments and results of `Attention`."""
    query, key, scale, bias = factors
    if causal and (mask is not None or bias is not None or query.shape[-2] != key.shape[-2]):
        # Kernels have no causal flag beside a mask, and theirs begins at the first key.
        mask, causal = _causal(query, key, mask), False
    if mask is None:
        return _kernel(query, key, value, bias, scale, causal)
    some = mask.any(-1, keepdim=True)
    mask = mask | ~some  # kernels differ in what a fully masked row gives, NaN among others
    allowed = mask if bias is None else bias.masked_fill(~mask, float("-inf"))
    return _kernel(query, key, value, allowed, scale).masked_fill(~some, 0)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None, causal: bool = False
) -> Tensor:
    """The kernels take four dimensions, so further leading ones are merged."""
    lead = query.shape[:-2]
    if bias is not None:
        bias = bias.reshape((1,) * (query.ndim - bias.ndim) + bias.shape)  # without which kernels do not broadcast
    if len(lead) < 3 or key.shape[:-2] != lead or value.shape[:-2] != lead:
        with _products(query, key):
            return scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
    query, key, value = (x.flatten(0, -4) for x in (query, key, value))
    if bias is not None:
        bias = bias.expand(*lead[:-1], -1, -1, -1).flatten(0, -4)
    with _products(query, key):
        y = scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
    return y.unflatten(0, lead[:-1])


def _products(query: Tensor, key: Tensor) -> AbstractContextManager[None]:
    """A context in which attention is plain products where these are faster than the fused kernel: on CPUs, whose
    kernel has a slow gradient in half precision, up to five times that of the products for short sequences."""
    slow = query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16) and key.shape[-2] <= SHORT
    if slow and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _causal(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """The causal mask, and `mask` if there is one."""
    causal = causal_mask(query.shape[-2], key.shape[-2], query.device)
    return causal if mask is None else causal & mask
