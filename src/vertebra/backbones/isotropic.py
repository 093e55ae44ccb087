"""What the networks share whose blocks keep the number and width of their patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.errors import VertebraError
from vertebra.nn.drop import drop_path_rates
from vertebra.nn.patch import PatchEmbed, grid_map, init_linear, tokens
from vertebra.structures import Level


class FixedGrid(Backbone):
    """Patches, blocks over all of them, a norm: [B, channels, H, W] -> one map [B, C, h, w] at the patch's stride.

    The blocks mix patches with layers as wide as their number N, so a network works on one grid (h, w) alone, that of
    `config.image_size`. The config has `patch`, `width` and `depth`.
    """

    first = "patches.weight"
    any_size = False
    embedding_only = ("norm.",)

    def __init__(self, config: Any, block: Callable[[int, float], nn.Module], norm: Callable[[int], nn.Module]) -> None:
        """`block(patches, drop_path)` maps [B, N, C] to the same, `norm(C)` is the last norm."""
        super().__init__(config)
        self.grid = tuple(-(-side // config.patch) for side in config.image_size)
        self.patches = PatchEmbed(config.channels, config.width, config.patch)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(block(self.grid[0] * self.grid[1], rate) for rate in rates)
        if config.embedding:
            self.norm = norm(config.width)
        self.levels, self.width = (Level(config.patch, config.width),), config.width
        init_linear(self)

    def walk(self, images: Tensor, keep: Callable[[Tensor], object]) -> Tensor:
        x = self.patches(images)
        check_grid(self, images, (x.shape[2], x.shape[3]), self.grid)
        x = tokens(x)
        for block in self.blocks:
            x = self.run(block, x)
        keep(grid_map(x, self.grid))
        return x

    def summary(self, x: Tensor) -> Tensor:
        return self.norm(x).mean(1)

    def layers(self) -> list[nn.Module]:
        return [self.patches, *self.blocks, *([self.norm] if self.config.embedding else [])]


def check_grid(
    model: Backbone,
    images: Tensor,
    grid: tuple[int, ...],
    expected: tuple[int, ...],
    offered: tuple[int, int] | None = None,
) -> None:
    """Raises if pictures make another grid of patches than `model` was made for, and offers a size that it can be made
    for: that of the pictures if none is given."""
    if grid != expected:
        height, width = model.config.image_size
        given = (images.shape[2], images.shape[3])
        offered = offered or given
        advice = f"make it with image_size=({offered[0]}, {offered[1]})"
        if offered == (height, width):
            advice = "resize them"
        elif offered != given:
            advice += ", the nearest that fits it"
        raise VertebraError(
            f"{type(model).__name__} works at the one input size that it was made for, {height} x {width}, and got "
            f"pictures of {given[0]} x {given[1]}: {advice}."
        )
