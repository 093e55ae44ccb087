"""A convolution of maps of several sizes, computed on their own cells.

Shapes: B batch, C channels in, O channels out, k x k kernel, h x w cells of a coarse map, H x W of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad


def conv_of_resized(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    align_corners: bool = False,
) -> Tensor:
    """The convolution of stride 1 of maps that are resized and concatenated: [B, C_i, h_i, w_i] each -> [B, O, H, W].

    Both are linear, and so the kernel's k x k weights are applied to a coarse map before its cells are interpolated:
    at a quarter of the cells, for a quarter of the products.

    Args:
        maps: those of another size are resized bilinearly.
        weight: [O, sum of C_i, k, k], k odd; the map is padded with k // 2 zeros.
        bias: [O], if any.
        size: (H, W).
        align_corners: as for `torch.nn.functional.interpolate`.
    """
    if torch.compiler.is_exporting():  # the sizes that the choice below depends on are not known
        resized = [interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners) for x in maps]
        return conv2d(torch.cat(resized, 1), weight, bias, padding=weight.shape[-1] // 2)
    total: Tensor | None = None
    for x, part in zip(maps, weight.split([x.shape[1] for x in maps], 1), strict=True):
        if 2 * x.shape[2] * x.shape[3] <= size[0] * size[1]:
            y = _interpolated(x, part, size, align_corners)
        else:
            if tuple(x.shape[2:]) != tuple(size):
                x = interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)
            y = conv2d(x, part, bias, padding=weight.shape[-1] // 2)
            bias = None
        total = y if total is None else total + y
    assert total is not None
    return total if bias is None else total + bias[:, None, None]


def _interpolated(x: Tensor, weight: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """[B, C, h, w] -> [B, O, H, W]: the products with each weight of the kernel, interpolated, shifted and summed."""
    outputs, inputs, kernel, _ = weight.shape
    taps = weight.permute(3, 2, 0, 1).reshape(kernel * kernel * outputs, inputs, 1, 1)  # column by column
    y = conv2d(x, taps).permute(0, 2, 3, 1).unflatten(3, (kernel, kernel * outputs))  # [B, h, w, kx, ky O]
    across, down = (_matrix(n, m, kernel, align_corners, y) for n, m in zip(x.shape[:1:-1], size[::-1], strict=True))
    y = (across @ y.flatten(2, 3)).unflatten(3, (kernel, outputs))  # [B, h, W, ky, O]
    y = down @ y.transpose(2, 3).flatten(1, 2).flatten(2)  # [B, H, W O]
    return y.unflatten(2, (size[1], outputs)).permute(0, 3, 1, 2)


def _matrix(cells: int, pixels: int, kernel: int, align_corners: bool, like: Tensor) -> Tensor:
    """[pixels, cells kernel]: of each pixel, the weight of every cell in the neighbour that a weight of the kernel is
    multiplied with; neighbours outside the map have none."""
    one = torch.eye(cells, dtype=torch.float32, device=like.device)
    weights = interpolate(one[None], pixels, mode="linear", align_corners=align_corners)[0].T  # [pixels, cells]
    reach = kernel // 2
    shifted = pad(weights, (0, 0, reach, reach)).unfold(0, pixels, 1)  # [kernel, cells, pixels]
    return shifted.permute(2, 1, 0).flatten(1).to(like.dtype)
