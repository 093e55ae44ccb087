"""ViP, the Vision Permutator: linear layers along rows, along columns and over channels, merged by split attention.

Source: Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition, arXiv:2106.12368.

Shapes: B batch, H x W feature cells (H = W), C channels, S segments of the channels. Inside, maps are [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.backbones.isotropic import check_grid
from vertebra.errors import VertebraError
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.merge import Merge
from vertebra.nn.mlp import Mlp
from vertebra.nn.patch import PatchEmbed, init_linear
from vertebra.structures import Level
from vertebra.weights import Rename


@dataclass(frozen=True)
class Config(BackboneConfig):
    patch: int  # side in pixels
    depths: tuple[int, int, int, int]  # blocks per stage
    widths: tuple[int, int, int, int]  # channels per stage
    halved: int | None = 0  # the stage after which the map is halved; None: nowhere


class Permute(nn.Module):
    """A linear layer over all cells of a row, or of a column, and C / H channels of each: [B, H, W, C] -> same.

    Source: arXiv:2106.12368, section 3.2 and figure 2.
    """

    def __init__(self, width: int, side: int, columns: bool) -> None:
        """`side` is H, W and S; `columns` mixes along H instead of W."""
        super().__init__()
        self.side, self.columns = side, columns
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.columns:
            x = x.transpose(1, 2)
        y = x.unflatten(3, (self.side, -1)).transpose(2, 3)  # [B, H, S, W, C / S]
        y = self.linear(y.flatten(3)).unflatten(3, (self.side, -1)).transpose(2, 3).flatten(3)  # [B, H, W, C]
        return y.transpose(1, 2) if self.columns else y


class Block(nn.Module):
    """Permuted mixing and perceptron, each after a norm and added to its input: [B, H, W, C] -> same."""

    def __init__(self, width: int, side: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.down, self.across = Permute(width, side, columns=True), Permute(width, side, columns=False)
        self.place = nn.Linear(width, width, bias=False)
        self.merge = Merge(width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 3 * width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.drop(self.project(self.merge(self.down(y), self.across(y), self.place(y))))
        z: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return z


def fits(config: Config, side: int) -> bool:
    """Whether every stage's channels can be mixed over a square grid that begins with this side."""
    for i, width in enumerate(config.widths):
        if i and config.halved == i - 1:
            side, odd = divmod(side, 2)
            if odd:
                return False
        if not side or width % side:
            return False
    return True


def nearest_size(config: Config, height: int, width: int) -> tuple[int, int] | None:
    """The input size nearest to (height, width) that a model of this config can be built for; None if there is none."""
    sides = [config.patch * side for side in range(1, min(config.widths) + 1) if fits(config, side)]
    best = min(sides, key=lambda side: abs(side - max(height, width)), default=None)
    return None if best is None else (best, best)


class ViP(Backbone):
    """[B, channels, H, W] -> a map at the patch's stride, and one at twice that where the map is halved."""

    any_size = False
    first_conv = "patches.weight"
    embedding_only = ("norm.",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        grid = tuple(-(-side // config.patch) for side in config.image_size)
        if grid[0] != grid[1] or not fits(config, grid[0]):
            height, width = config.image_size
            nearest = nearest_size(config, height, width)
            raise VertebraError(
                f"ViP mixes {' and '.join(map(str, dict.fromkeys(config.widths)))} channels over a square grid whose "
                f"side divides them (and is even where it is halved); an input of {height} x {width} makes a grid of "
                f"{grid[0]} x {grid[1]}"
                + (f": the nearest that fits is image_size={nearest}." if nearest else ", and no size fits these.")
            )
        self.grid, side = grid, grid[0]
        self.patches = PatchEmbed(config.channels, config.widths[0], config.patch)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        self.stages, self.steps, levels = nn.ModuleList(), nn.ModuleList(), []
        stride = config.patch
        for i, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            if i:
                factor = 2 if config.halved == i - 1 else 1
                old = config.widths[i - 1]
                changes = factor > 1 or old != width
                self.steps.append(nn.Conv2d(old, width, factor, factor) if changes else nn.Identity())
                side, stride = side // factor, stride * factor
            self.stages.append(nn.ModuleList(Block(width, side, next(rates)) for _ in range(depth)))
            levels.append(Level(stride, width))
        self.levels = tuple(
            b for b, after in zip(levels, [*levels[1:], None], strict=True) if not after or after.stride != b.stride
        )
        self.width = config.widths[-1]
        if config.embedding:
            self.norm = nn.LayerNorm(self.width)
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.patches(images)
        if (grid := (x.shape[2], x.shape[3])) != self.grid:
            check_grid(self, images, grid, self.grid, nearest_size(self.config, images.shape[2], images.shape[3]))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.steps[i - 1](x)
            x = x.permute(0, 2, 3, 1)  # [B, H, W, C]
            for block in stage.children():
                x = self.run_block(block, x)
            x = x.permute(0, 3, 1, 2)
            if i == len(self.stages) - 1 or i == self.config.halved:
                on_level(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.patches]
        for i, stage in enumerate(self.stages):
            parts += [*self.steps[i - 1 : i], *stage.children()]
        return [*parts, *([self.norm] if self.config.embedding else [])]


MODEL = ViP

VARIANTS = {
    #                          patch depths          widths
    "vip_small_14": Config(14, (4, 3, 8, 3), (384, 384, 384, 384), halved=None),
    "vip_small_7": Config(7, (4, 3, 8, 3), (192, 384, 384, 384)),
    "vip_medium_7": Config(7, (4, 3, 14, 3), (256, 256, 512, 512), halved=1),
    "vip_large_7": Config(7, (8, 8, 16, 4), (256, 512, 512, 512)),
}

ALIASES: dict[str, str] = {}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "vip_small_7": (81.5, "authors' README"),
    "vip_medium_7": (82.7, "authors' README"),
    "vip_large_7": (83.2, "authors' README"),
}

WEIGHTS: dict[str, weights.Weights] = {}


def _official(config: Config) -> weights.Rules:
    """The authors' network is one list: the stages and, where the map or its width changes, the steps between them."""
    places = []
    for i, width in enumerate(config.widths):
        if i and (config.halved == i - 1 or config.widths[i - 1] != width):
            places.append(f"steps.{i - 1}")
        places.append(f"stages.{i}")
    return (
        Rename(r"^patch_embed\.proj\.", "patches."),
        Rename(r"^network\.(\d+)\.", lambda m: f"{places[int(m[1])]}."),
        Rename(r"^(steps\.\d)\.proj\.", r"\1."),
        Rename(r"\.attn\.mlp_h\.", ".down.linear."),
        Rename(r"\.attn\.mlp_w\.", ".across.linear."),
        Rename(r"\.attn\.mlp_c\.", ".place."),
        Rename(r"\.attn\.reweight\.fc1\.", ".merge.reduce."),
        Rename(r"\.attn\.reweight\.fc2\.", ".merge.expand."),
        Rename(r"\.attn\.proj\.", ".project."),
        Rename(r"\.mlp\.fc1\.", ".mlp.expand."),
        Rename(r"\.mlp\.fc2\.", ".mlp.project."),
    )


RULES = {"official": _official}
