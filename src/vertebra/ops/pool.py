"""Average pooling to a number of cells, also in exported programs, whose inputs may have any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad


def average_pool(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """torch's adaptive average pooling, to rounding: [B, C, h, w] -> [B, C, *size].

    Exported programs hold it as differences of cumulative sums, because other runtimes pool windows of one size only.
    """
    if not torch.compiler.is_exporting():
        return adaptive_avg_pool2d(x, size)
    rows, columns = (size, size) if isinstance(size, int) else size
    return _along(_along(x, 3, columns, (1, 0)), 2, rows, (0, 0, 1, 0))


def _along(x: Tensor, dim: int, cells: int, front: tuple[int, ...]) -> Tensor:
    """The averages along one side; `front` pads it with a zero at the front."""
    length, cell = x.shape[dim], torch.arange(cells, device=x.device)
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells  # rounded outwards
    sums = pad(x.cumsum(dim), front)
    count = (end - start).view(-1, *[1] * (3 - dim))
    return (sums.index_select(dim, end) - sums.index_select(dim, start)) / count
