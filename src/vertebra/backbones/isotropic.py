"""What isotropic networks share: all blocks have the same number of patches and the same width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.errors import VertebraError
from vertebra.nn.drop import drop_path_rates
from vertebra.nn.patch import PatchEmbed, grid_map, init_linear, tokens
from vertebra.structures import Level


@dataclass(frozen=True)
class FixedGridConfig(BackboneConfig):
    """Options of all isotropic networks."""

    patch: int  # side in pixels
    width: int
    depth: int


class FixedGrid(Backbone):
    """Patches, blocks over all of them, a norm: [B, channels, H, W] -> one map [B, C, h, w] at the patch's stride.

    The blocks mix patches with layers whose width is the number of patches N, so a network takes only the grid (h, w)
    of `config.image_size`.
    """

    first_conv = "patches.weight"
    any_size = False
    embedding_only = ("norm.",)

    def __init__(
        self, config: FixedGridConfig, block: Callable[[int, float], nn.Module], norm: Callable[[int], nn.Module]
    ) -> None:
        """`block(patches, drop_path)` maps [B, N, C] to the same; `norm(C)` is the last norm."""
        super().__init__(config)
        self.grid = (-(-config.image_size[0] // config.patch), -(-config.image_size[1] // config.patch))
        self.patches = PatchEmbed(config.channels, config.width, config.patch)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(block(self.grid[0] * self.grid[1], rate) for rate in rates)
        if config.embedding:
            self.norm = norm(config.width)
        self.levels, self.width = (Level(config.patch, config.width),), config.width
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.patches(images)
        check_grid(self, images, (x.shape[2], x.shape[3]), self.grid)
        x = tokens(x)
        for block in self.blocks:
            x = self.run_block(block, x)
        on_level(grid_map(x, self.grid))
        return x

    def pool(self, x: Tensor) -> Tensor:
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
    """Raises if images make another grid of patches than `model` was built for; the message has an image size that it
    can be built for: `offered`, or that of the images."""
    if grid != expected:
        height, width = model.config.image_size
        size = (images.shape[2], images.shape[3])
        offered = offered or size
        advice = f"build it with image_size=({offered[0]}, {offered[1]})"
        if offered == (height, width):
            advice = "resize them"
        elif offered != size:
            advice += ", the nearest that fits it"
        raise VertebraError(
            f"{type(model).__name__} works only at the input size that it was built for, {height} x {width}, and got "
            f"images of {size[0]} x {size[1]}: {advice}."
        )
