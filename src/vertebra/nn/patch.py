"""Images in patches."""

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Conv2d):
    """A linear map of each patch: [B, C, H, W] -> [B, width, ceil(H / patch), ceil(W / patch)].

    Sides that are no multiple of the patch are padded with zeros at the right and bottom; `padding` is that on all
    sides, in pixels.
    """

    def __init__(self, channels: int, width: int, patch: int, padding: int = 0) -> None:
        super().__init__(channels, width, patch, patch, padding)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_to_multiple(x, self.stride[0]))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the right and bottom until both sides are multiples: [B, C, H, W] -> [B, C, H', W']."""
    down, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return nn.functional.pad(x, (0, right, 0, down)) if down or right else x


def same_grid(size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Whether two grids are equal for all images: never if one has a torch.SymInt, in a program for any size."""
    return all(isinstance(side, int) for side in size) and size == grid


def resize_grid(table: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bicubic resampling of a table of positions: [1, h * w, C] of `grid` (h, w) -> [1, H * W, C] of `size` (H, W).

    Anti-aliased when it shrinks, as timm does it.
    """
    if same_grid(size, grid):
        return table
    square = table.unflatten(1, grid).permute(0, 3, 1, 2).float()
    square = nn.functional.interpolate(square, size, mode="bicubic", antialias=True)
    return square.flatten(2).transpose(1, 2).to(table.dtype)


def init_linear(model: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases, as in transformers (arXiv:2010.11929's code)."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_meta:
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def grid_map(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """[B, H * W, C] -> [B, C, H, W], `size` being (H, W)."""
    return x.transpose(1, 2).unflatten(2, (size[0], size[1]))
