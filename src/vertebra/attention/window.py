"""Self-attention inside windows, with a bias for each relative position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.attention.multi_head import check_heads


class WindowAttention(nn.Module):
    """Scaled dot-product attention inside windows: [B, M * M, C] -> same, B being images times windows.

    Source: Swin Transformer, arXiv:2103.14030, section 3.2 and equation 4.
    """

    index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        """`window` is M, the side of a window in cells."""
        super().__init__()
        check_heads(width, heads)
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("index", _relative_index(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [windows, M * M, M * M] is added to the scores; the windows of one image are consecutive in B."""
        query, key, value = self._split(x)
        if x.device.type == "cpu":
            # Windows are so small that plain products are faster there, and the fused kernel has no gradient for the
            # bias.
            y = self._scores(query, key, mask).softmax(-1) @ value
        else:
            bias = self._bias(mask)
            bias = bias.repeat(len(x) // len(bias), 1, 1, 1) if mask is not None else bias
            y = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return projected

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights, rows summing to 1: -> [B, heads, M * M, M * M]."""
        query, key, _ = self._split(x)
        return self._scores(query, key, mask).softmax(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, each [B, heads, M * M, C / heads]."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _scores(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Scaled products with the bias, before the softmax: [B, heads, M * M, M * M]."""
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        bias = self._bias(mask)
        scores.unflatten(0, (-1, len(bias))).add_(bias)
        return scores

    def _bias(self, mask: Tensor | None) -> Tensor:
        """Relative position bias and mask together, [1 or windows, heads, M * M, M * M]."""
        area = self.window**2
        bias = self.bias_table[self.index].view(area, area, self.heads).permute(2, 0, 1)
        return bias[None].contiguous() if mask is None else bias + mask[:, None]


def _relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of cells, [M ** 4]: (dy + M - 1) * (2M - 1) + dx + M - 1."""
    cells = torch.arange(window)
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    dy = y.flatten()[:, None] - y.flatten()[None]
    dx = x.flatten()[:, None] - x.flatten()[None]
    return ((dy + window - 1) * (2 * window - 1) + dx + window - 1).flatten()
