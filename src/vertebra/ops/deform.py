"""Deformable convolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """A convolution whose kernel samples the map, bilinearly, at offsets from its places; zero outside of the map.

    Args:
        x: [B, C, H, W].
        offset: [B, 2 D K, h, w], y and x of each of the kernel's K places in cells, for each of D groups of channels.
        weight: [C', C / groups, K rows, K columns].
        bias: [C'].
        mask: [B, D K, h, w], by which samples are multiplied.
        stride, padding, dilation: (vertical, horizontal) in cells.

    Returns:
        [B, C', h, w] in the type that a convolution of `x` would have; the samples are taken in float32.

    Source: arXiv:1703.06211, section 2.1; with `mask` arXiv:1811.11168, section 3.2.
    """
    if x.is_cuda:
        from torchvision.ops import deform_conv2d as fused  # which torchvision has in float32 and float16 alone

        floats = [None if t is None else t.float() for t in (x, offset, weight, bias, mask)]
        y: Tensor = fused(*floats[:4], stride, padding, dilation, floats[4])
        return y.to(x.dtype)
    # On CPUs torchvision's takes twice the time of this, five times in training, though it stores fewer samples.
    (batch, channels, height, width), (rows, columns), size = x.shape, weight.shape[2:], offset.shape[2:]
    taps = rows * columns
    groups = offset.shape[1] // (2 * taps)

    def places(count: int, kernel: int, axis: int) -> Tensor:  # [kernel, count]: where the kernel lies without offsets
        of_kernel = torch.arange(kernel, device=x.device)[:, None] * dilation[axis]
        return torch.arange(count, device=x.device) * stride[axis] - padding[axis] + of_kernel

    offset = offset.float().reshape(batch * groups, taps, 2, *size)
    across = offset[:, :, 1] + places(size[1], columns, 1).repeat(rows, 1)[:, None, :]  # [B D, K, h, w]
    down = offset[:, :, 0] + places(size[0], rows, 0).repeat_interleave(columns, 0)[:, :, None]
    grid = torch.stack(((2 * across + 1) / width - 1, (2 * down + 1) / height - 1), 4).flatten(1, 2)
    maps = x.float().reshape(batch * groups, channels // groups, height, width)
    samples = grid_sample(maps, grid, align_corners=False).view(batch, groups, channels // groups, taps, *size)
    if mask is not None:
        samples = samples * mask.float().view(batch, groups, 1, taps, *size)
    samples = samples.to(x.dtype).reshape(batch, channels * taps, *size)
    return conv2d(samples, weight.flatten(1)[..., None, None], bias, groups=channels // weight.shape[1])
