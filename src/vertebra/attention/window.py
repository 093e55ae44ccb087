"""Which values does a query need near by, at a cost that grows with the area? Those in its window; windows shift.

    softmax(Q K^T / sqrt(D) + B) V in every window of M x M cells

Q, K, V: [M * M, D], the cells of a window; B: a learned bias for each offset between two cells, see
`positions/relative_bias`. In every second layer the windows are shifted by M // 2 cells. The map is rolled for it, so
that windows at the border hold cells from two sides, between which a mask forbids attention.

Source: Swin Transformer, arXiv:2103.14030, section 3.2 and equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from vertebra.attention.attention import Attention
from vertebra.attention.multi_head import check_heads, join_heads, split_qkv
from vertebra.attention.positions.relative_bias import RelativeBias, bias_table, relative_bias, relative_index
from vertebra.errors import VertebraError

Shift = int | Tensor
"""Of windows along an axis, in cells; [] int64 where the side is a torch.SymInt, in a program for maps of any size."""


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
        self.bias_table = bias_table((window, window), heads)
        self.register_buffer("index", relative_index((window, window)), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [windows, M * M, M * M] is added to the scores; the windows of one image are consecutive in B."""
        query, key, value = split_qkv(self.qkv(x), self.heads)
        if x.device.type == "cpu":
            # Windows are so small that plain products are faster there, and the fused kernel has no gradient for the
            # bias.
            y = self._scores(query, key, mask).softmax(-1) @ value
        else:
            bias = self._bias(mask)
            bias = bias.repeat(x.shape[0] // bias.shape[0], 1, 1, 1) if mask is not None else bias
            y = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.project(join_heads(y))
        return projected

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights, rows summing to 1: -> [B, heads, M * M, M * M]."""
        query, key, _ = split_qkv(self.qkv(x), self.heads)
        return self._scores(query, key, mask).softmax(-1)

    def _scores(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Scaled products with the bias, before the softmax: [B, heads, M * M, M * M]."""
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        bias = self._bias(mask)
        scores.unflatten(0, (-1, bias.shape[0])).add_(bias)
        return scores

    def _bias(self, mask: Tensor | None) -> Tensor:
        """Relative position bias and mask together, [1 or windows, heads, M * M, M * M]."""
        if mask is not None and mask.dtype == torch.bool:
            raise VertebraError("the mask is bool; window attention adds it to the scores: give 0 and -inf.")
        bias = relative_bias(self.bias_table, self.index)
        return bias[None].contiguous() if mask is None else bias + mask[:, None]


class Windowed(nn.Module):
    """Any mechanism inside the windows of a sequence or a map: [..., *size, C] each -> [..., *size, V].

    Query, key and value have one size, (N,) for windows of one side, or (H, W) for windows of two; any is allowed,
    padding is masked. `mask` is bool, broadcastable to [..., 1, *size], True = the key may be attended by every query
    of its window; a query without any True has an output of 0, as far as the mechanism does so. With RelativeBias, the
    last leading dimension is that of the heads.

    Source: arXiv:2103.14030, section 3.2.
    """

    def __init__(self, window: Sequence[int], attention: nn.Module | None = None, shifted: bool = False) -> None:
        """`window` has the sides of a window in cells, `attention` is by default scaled dot-product attention. Where
        they are `shifted`, by half a side, there must be more than one window along the axis."""
        super().__init__()
        self.window, self.shifted = tuple(window), shifted
        self.attention = Attention() if attention is None else attention

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        size, shift = self._size(query)
        windows = [self._split(x, shift) for x in (query, key, value)]
        y = self.attention(*windows, self._mask(size, shift, query, mask))
        return from_windows(self._swapped(y), self.window, shift, size)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Those of the mechanism in each window, as it has them: [..., windows, area, area], cells row-major."""
        size, shift = self._size(query)
        windows = [self._split(x, shift) for x in (query, key)]
        weights: Tensor = self.attention.weights(  # type: ignore[operator]
            *windows, self._mask(size, shift, query, mask)
        )
        return self._swapped(weights)

    def _split(self, x: Tensor, shift: Sequence[Shift]) -> Tensor:
        """[..., *size, C] -> [..., windows, area, C], or [..., windows, heads, area, C] where biases are by head."""
        return self._swapped(to_windows(x, self.window, shift))

    def _swapped(self, x: Tensor) -> Tensor:
        """Heads and windows in the other order, where biases are by head."""
        return x.transpose(-4, -3) if self._biased and x.ndim > 3 else x

    @property
    def _biased(self) -> int:
        """The number of heads of relative position biases; 0 without such."""
        score = getattr(self.attention, "score", None)
        return score.bias_table.shape[1] if isinstance(score, RelativeBias) else 0

    def _size(self, x: Tensor) -> tuple[tuple[int, ...], list[Shift]]:
        """Size of the sequence or map, and the shift along each axis."""
        if self._biased > 1 and x.ndim == len(self.window) + 1:  # else windows would be taken for heads
            raise VertebraError(
                f"the query is {list(x.shape)}, and biases are for [..., {self._biased} heads, *size, C]."
            )
        size = tuple(x.shape[-1 - len(self.window) : -1])
        sides = zip(size, self.window, strict=True)
        return size, [m // 2 * is_longer(side, m) if self.shifted else 0 for side, m in sides]

    def _mask(self, size: tuple[int, ...], shift: Sequence[Shift], like: Tensor, mask: Tensor | None) -> Tensor | None:
        """Whether cells of a window may attend to each other, [..., windows, area, area], or None if all may."""
        whole = all_known(size) and not any(n % m for n, m in zip(size, self.window, strict=True))
        if mask is None and whole and not any(shift):
            return None
        keys = torch.ones((1, *size), dtype=torch.bool, device=like.device)
        keys = keys if mask is None else keys & mask
        if keys.shape[-1 - len(size)] != 1:
            raise VertebraError(
                f"the mask has the shape {list(keys.shape)}; windows take one of keys, {['...', 1, *size]}."
            )
        keys = to_windows(keys.squeeze(-1 - len(size))[..., None], self.window, shift)  # [..., windows, area, 1]
        allowed = keys.transpose(-2, -1) & window_mask(size, self.window, shift, like.device)
        if self._biased and like.ndim > len(size) + 1:  # with heads, which it is the same for
            return self._swapped(allowed) if allowed.ndim > 3 else allowed[:, None]
        return allowed


def is_longer(side: int, window: int) -> bool | Tensor:
    """Whether a side has more than one window; [] bool where it is a torch.SymInt."""
    return side > window if isinstance(side, int) else torch.full((), side) > window


def all_known(values: Sequence[Shift]) -> TypeGuard[Sequence[int]]:
    """Whether sides or shifts are numbers, not what a program for any size computes."""
    return all(isinstance(value, int) for value in values)


def window_counts(sizes: Sequence[int], window: Sequence[int]) -> list[int]:
    """The number of windows along each axis, the last of which may be incomplete."""
    return [(n + m - 1) // m for n, m in zip(sizes, window, strict=True)]


def to_windows(x: Tensor, window: Sequence[int], shift: Sequence[Shift]) -> Tensor:
    """A sequence or map by windows: [..., *size, C] -> [..., windows, area, C], windows and cells row-major.

    It is rolled back by `shift` cells along each axis, after zeros at the end make the sizes multiples of the window.
    """
    axes = len(window)
    first = x.ndim - axes - 1
    sizes = x.shape[first:-1]
    counts = window_counts(sizes, window)
    padding = [count * m - n for n, m, count in zip(sizes, window, counts, strict=True)]
    if not all_known(sizes) or any(padding):
        x = nn.functional.pad(x, [0, 0] + [n for after in reversed(padding) for n in (0, after)])
    x = _rolled(x, [-n for n in shift], first)
    for i in reversed(range(axes)):
        x = x.unflatten(first + i, (counts[i], window[i]))
    inside = range(first + 1, first + 2 * axes, 2)
    x = x.permute(*range(first), *range(first, first + 2 * axes, 2), *inside, -1)
    return x.flatten(first, first + axes - 1).flatten(first + 1, first + axes)


def from_windows(x: Tensor, window: Sequence[int], shift: Sequence[Shift], size: Sequence[int]) -> Tensor:
    """The reverse of `to_windows`: [..., windows, area, C] -> [..., *size, C]."""
    axes = len(window)
    first = x.ndim - 3
    counts = window_counts(size, window)
    x = x.unflatten(-2, list(window)).unflatten(first, counts)
    x = x.permute(*range(first), *(first + i + j for i in range(axes) for j in (0, axes)), -1)
    for i in range(axes):
        x = x.flatten(first + i, first + i + 1)
    x = _rolled(x, shift, first)
    for i in range(axes):
        x = cropped(x, size[i], first + i)
    return x


def cropped(x: Tensor, length: int, axis: int) -> Tensor:
    """The first `length` entries along an axis, also for a torch.SymInt: a program with a slice takes either lengths of
    which it cuts something off, or such of which it does not."""
    if isinstance(length, int):
        return x.narrow(axis, 0, length)
    return x.index_select(axis, torch.arange(length, device=x.device))


def _rolled(x: Tensor, shift: Sequence[Shift], first: int) -> Tensor:
    """Rolled along an axis for each shift, the `first` one and those after it."""
    if all_known(shift):
        return x.roll(list(shift), list(range(first, first + len(shift)))) if any(shift) else x
    for axis, n in enumerate(shift, first):
        length = torch.full((), x.shape[axis], device=x.device)  # ONNX has no remainder by a torch.SymInt
        x = x.index_select(axis, (torch.arange(x.shape[axis], device=x.device) - n) % length)
    return x


def window_mask(
    size: Sequence[int], window: Sequence[int], shift: Sequence[Shift], device: torch.device | None = None
) -> Tensor:
    """False between cells that share a window only because the map was rolled by `shift`: [windows, area, area].

    Source: arXiv:2103.14030, section 3.2 and figure 4.
    """
    regions = torch.zeros((), dtype=torch.long, device=device)
    for count, m, n in zip(window_counts(size, window), window, shift, strict=True):
        place = torch.arange(count * m, device=device)
        regions = regions[..., None] * 2 + (place >= count * m - n)  # those that came from the other side
    cells = to_windows(regions[..., None], window, [0] * len(window))[..., 0]
    return cells[:, :, None] == cells[:, None]
