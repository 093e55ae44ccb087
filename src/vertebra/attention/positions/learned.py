"""At which position is an element, where lengths are bounded? A learned vector per position tells.

    y_p = x_p + E_p                            on a sequence
    y_(r, c) = x_(r, c) + [R_r; C_c]           on a map

p: position; r, c: row and column; E: [length, C]; R: [height, C / 2], C: [width, C / 2], concatenated.

Sources: Convolutional Sequence to Sequence Learning, arXiv:1705.03122, section 3.1; on maps, An Image is Worth 16x16
Words, arXiv:2010.11929, appendix D.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError


class Learned(nn.Module):
    """Adds the vector of each position: [..., N, C] -> same. Positions at `length` and after raise VertebraError.

    Source: arXiv:1705.03122, section 3.1.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = _table(length, width)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """`start` is the position of the first element."""
        _check("positions", start + x.shape[-2], len(self.table))
        return x + self.table[start : start + x.shape[-2]]


class Learned2d(nn.Module):
    """Adds the vectors of each row and column: [..., H, W, C] -> same, C even.

    A map larger than `size` raises VertebraError.

    Source: arXiv:2010.11929, appendix D.4, 2-dimensional positional embedding.
    """

    def __init__(self, size: tuple[int, int], width: int) -> None:
        """`size` is (rows, columns).

        Raises:
            VertebraError: if `width` is odd.
        """
        super().__init__()
        if width % 2:
            raise VertebraError(f"width is {width}; rows and columns have half of it each, so it must be even.")
        self.rows, self.columns = _table(size[0], width // 2), _table(size[1], width // 2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-3:-1]
        _check("rows", height, len(self.rows))
        _check("columns", width, len(self.columns))
        rows = self.rows[:height, None].expand(-1, width, -1)
        columns = self.columns[None, :width].expand(height, -1, -1)
        return x + torch.cat((rows, columns), -1)


def _table(length: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(length, width), std=0.02))


def _check(what: str, needed: int, learned: int) -> None:
    if needed > learned:
        raise VertebraError(f"the input has {needed} {what}, and there are embeddings for the first {learned} only.")
