"""Which values does a query need, for several reasons at once? Every head attends in its projection of the input.

    head_h = attention(q W^Q_h, k W^K_h, v W^V_h)        output = [head_1; ...; head_H] W^O

q, k, v: query, keys and values; W^Q_h, W^K_h, W^V_h: [width, width / H], W^O: [width, width], learned, with biases.

Source: Attention Is All You Need, arXiv:1706.03762, section 3.2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.attention.attention import Attention
from vertebra.errors import VertebraError


def check_heads(width: int, heads: int) -> None:
    """Raises if `width` channels cannot be split among the heads."""
    if heads < 1 or width % heads:
        raise VertebraError(f"heads is {heads}; it must be a divisor of the width {width}.")


class MultiHeadAttention(nn.Module):
    """Query [..., Q, width], key [..., K, key_width] and value [..., K, value_width] -> [..., Q, width].

    `mask` is bool, broadcastable to [..., Q, K], True = may attend, the same for all heads; a query without any True
    sees no value, and its output is the bias of the last projection.

    Source: arXiv:1706.03762, section 3.2.2.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        attention: nn.Module | None = None,
        key_width: int | None = None,
        value_width: int | None = None,
    ) -> None:
        """`attention` is the mechanism of the heads, by default scaled dot-product attention. They share its
        parameters and are a leading dimension for it: query [..., heads, Q, width / heads]. The other widths are
        `width` by default."""
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width or width, width)
        self.value = nn.Linear(value_width or width, width)
        self.attention = Attention() if attention is None else attention
        self.project = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.attend(query, *self.project_keys(key, value), mask)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the values, rows summing to 1: [..., heads, Q, K]."""
        return self.head_weights(query, split_heads(self.key(key), self.heads), mask)

    def head_weights(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `weights`, with the keys of `project_keys`."""
        queries = split_heads(self.query(query), self.heads)
        weights: Tensor = self.attention.weights(queries, keys, for_heads(mask))  # type: ignore[operator]
        return weights

    def project_keys(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the heads, [..., heads, K, width / heads] each, which a decoder keeps between steps."""
        return split_heads(self.key(key), self.heads), split_heads(self.value(value), self.heads)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `forward`, with the result of `project_keys`."""
        y = self.attention(split_heads(self.query(query), self.heads), keys, values, for_heads(mask))
        projected: Tensor = self.project(join_heads(y))
        return projected


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself: [..., N, C] -> same.

    `mask` is as in MultiHeadAttention. Query, key and value are one projection, hence one matrix product.

    Source: arXiv:1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, attention: nn.Module | None = None) -> None:
        """`attention` is as in MultiHeadAttention."""
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attention = Attention() if attention is None else attention
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.attention(*split_qkv(self.qkv(x), self.heads), for_heads(mask))
        projected: Tensor = self.project(join_heads(y))
        return projected

    def extend(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attention of a sequence's next elements to themselves and to those before, as a causal decoder needs it.

        Args:
            x: [..., N, C], the elements after those of `past`.
            past: keys and values [..., heads, P, C / heads] of the P elements before; None of the first ones.

        Returns:
            the output [..., N, C], and the keys and values of all P + N elements.
        """
        query, key, value = split_qkv(self.qkv(x), self.heads)
        if past is not None:
            key, value = torch.cat((past[0], key), -2), torch.cat((past[1], value), -2)
        projected: Tensor = self.project(join_heads(self.attention(query, key, value)))
        return projected, (key, value)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights, rows summing to 1: [..., N, C] -> [..., heads, N, N]."""
        query, key, _ = split_qkv(self.qkv(x), self.heads)
        weights: Tensor = self.attention.weights(query, key, for_heads(mask))  # type: ignore[operator]
        return weights


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., N, C] -> [..., heads, N, C / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def split_qkv(x: Tensor, heads: int) -> tuple[Tensor, ...]:
    """[..., N, 3C] -> query, key and value, each [..., heads, N, C / heads]."""
    return x.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-3, -2).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """[..., heads, N, C / heads] -> [..., N, C]."""
    return x.transpose(-3, -2).flatten(-2)


def for_heads(mask: Tensor | None) -> Tensor | None:
    """The same mask for all heads: [..., Q, K] -> [..., 1, Q, K]."""
    return mask if mask is None or mask.ndim < 3 else mask.unsqueeze(-3)
