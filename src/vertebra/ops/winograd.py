"""3x3 convolutions by Winograd's minimal filtering: a quarter of the products, as precise as a direct convolution.

A tile of 4 x 4 outputs is y = A^T ((G g G^T) * (B^T d B)) A, with its 6 x 6 inputs d and the kernel g. The matrices
evaluate and interpolate polynomials at five points and at infinity. The usual points 0, 1, -1, 2, -2 cost two bits of
precision; with those here the largest error, of 256 channels, is that of oneDNN's direct convolution.

Source: Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor
from torch.nn.functional import pad

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
_OTHERS = [[q for q in POINTS if q != p] for p in POINTS]
_INPUT = torch.from_numpy(np.stack([*(np.append(polyfromroots(o), 0) for o in _OTHERS), polyfromroots(POINTS)]))
_KERNEL = torch.tensor(
    [
        *([p**i / math.prod(p - q for q in o) for i in range(3)] for p, o in zip(POINTS, _OTHERS, strict=True)),
        [0.0, 0.0, 1.0],
    ],
    dtype=torch.float64,
)
_OUTPUT = torch.tensor([[*(p**i for p in POINTS), float(i == 3)] for i in range(4)], dtype=torch.float64)
"""B^T [6, 6], G [6, 3] and A^T [4, 6], float64."""
BAND = 1 << 20
"""Values of the transformed inputs, or outputs, that are in memory at a time."""


def tile_grid(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles of 4 x 4 cells that cover a map [B, C, H, W]."""
    return -(-x.shape[2] // 4), -(-x.shape[3] // 4)


def winograd_weight(weight: Tensor) -> Tensor:
    """The kernels [O, C, 3, 3] as `winograd_conv` takes them: [36, C, O]."""
    both = torch.kron(_KERNEL, _KERNEL).to(weight.dtype)  # along rows and columns
    return (both @ weight.reshape(-1, 9).T).view(36, *weight.shape[:2]).transpose(1, 2)


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The 3x3 convolution of stride 1, padded with a zero on each side: [B, C, H, W] -> [B, O, H, W], channels-last.

    Args:
        x: best channels-last.
        weight: [36, C, O], of `winograd_weight`.
        bias: [O], if any.
    """
    batch, _, height, width = x.shape
    outputs = weight.shape[2]
    rows, columns = tile_grid(x)
    shape = (batch, outputs, 4 * rows, 4 * columns)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    cells = y.permute(0, 2, 3, 1).view(batch, rows, 4, columns, 4, outputs)
    for band, d in _input_tiles(x, outputs):
        products = torch.bmm(d, weight)
        z = _transformed(_OUTPUT, products.view(6, 6, -1)).view(4, 4, *cells[band].shape[:2], columns, outputs)
        cells[band] = z.permute(2, 3, 0, 4, 1, 5)
        del d, products, z  # before the next band takes memory
    if (height, width) != (4 * rows, 4 * columns):
        y = y[:, :, :height, :width].clone(memory_format=torch.channels_last)
    return y if bias is None else y.add_(bias[:, None, None])


def winograd_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the kernels [O, C, 3, 3] of a convolution as `winograd_conv`'s: G^T ((B^T d B) * (A e A^T)) G,
    summed over the tiles, with the gradients e of their outputs.

    Args:
        x: [B, C, H, W], the input.
        gradient: [B, O, H, W], by the output; both best channels-last.
    """
    outputs, height, width = gradient.shape[1:]
    rows, columns = tile_grid(gradient)
    padded = pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, 4 * columns - width, 0, 4 * rows - height))
    cells = padded.view(len(x), rows, 4, columns, 4, outputs)
    total = x.new_zeros(36, x.shape[1], outputs)
    for band, d in _input_tiles(x, outputs):
        e = _transformed(_OUTPUT.T, cells[band].permute(2, 4, 0, 1, 3, 5))
        total.baddbmm_(d.transpose(1, 2), e.view(36, -1, outputs))
        del d, e
    both = torch.kron(_KERNEL, _KERNEL).to(x.dtype)
    return (both.T @ total.view(36, -1)).view(3, 3, -1, outputs).permute(3, 2, 0, 1)


def _input_tiles(x: Tensor, outputs: int) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Bands of images and rows of tiles, each with its transformed inputs B^T d B [36, tiles, C]."""
    batch, channels, height, width = x.shape
    rows, columns = tile_grid(x)
    padded = pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height))
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4)  # [B, rows, columns, C, 6, 6], a view
    in_band = max(1, BAND // (36 * columns * max(channels, outputs)))  # rows of tiles
    images = max(1, in_band // rows)
    for i in range(0, batch, images):
        for j in range(0, rows, in_band):
            band = (slice(i, i + images), slice(j, j + in_band))
            yield band, _transformed(_INPUT, tiles[band].permute(4, 5, 0, 1, 2, 3)).view(36, -1, channels)


def _transformed(matrix: Tensor, tiles: Tensor) -> Tensor:
    """M t M^T of each of N tiles t [m, m]: [m, m, ...] of N values each -> [n, n, N], with M [n, m]."""
    n, m = matrix.shape
    matrix = matrix.to(tiles.dtype)
    return matrix @ (matrix @ tiles.reshape(m, -1)).view(n, m, -1)
