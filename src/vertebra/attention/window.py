"""Self-attention inside windows, with a bias for each relative position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Scaled dot-product attention inside windows: [B, M * M, C] -> same, B being pictures times windows.

    Source: Swin Transformer, arXiv:2103.14030, section 3.2 and equation 4.
    """

    index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        """`window` is M, the side of a window in cells."""
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("index", _relative_index(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [windows, M * M, M * M] is added to the scores; the windows of one picture lie together in B."""
        query, key, value = self._split(x)
        y = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self._bias(len(x), mask))
        projected: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return projected

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each cell of a window attends to, rows summing to 1: -> [B, heads, M * M, M * M]."""
        query, key, _ = self._split(x)
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + self._bias(len(x), mask)).softmax(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, each [B, heads, M * M, C / heads]."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _bias(self, count: int, mask: Tensor | None) -> Tensor:
        """Relative position bias and mask together, [1 or count, heads, M * M, M * M]."""
        area = self.window**2
        bias = self.bias_table[self.index].view(1, area, area, self.heads).permute(0, 3, 1, 2)
        if mask is None:
            return bias.contiguous()
        windows = len(mask)
        return (bias + mask[:, None]).expand(count // windows, -1, -1, -1, -1).flatten(0, 1)


def _relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of cells, [M ** 4]: (dy + M - 1) * (2M - 1) + dx + M - 1."""
    cells = torch.arange(window)
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    dy = y.flatten()[:, None] - y.flatten()[None]
    dx = x.flatten()[:, None] - x.flatten()[None]
    return ((dy + window - 1) * (2 * window - 1) + dx + window - 1).flatten()
