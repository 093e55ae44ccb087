"""CycleMLP: perceptrons whose input channels are read from neighbouring cells in a cycle; cost linear in the area.

Source: CycleMLP: A MLP-like Architecture for Dense Prediction, arXiv:2107.10224.

Shapes: B batch, H x W feature cells, C channels. Inside, maps are [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.merge import Merge
from vertebra.nn.mlp import Mlp
from vertebra.nn.patch import init_linear, pad_to_multiple
from vertebra.nn.shift import Shift
from vertebra.structures import Level
from vertebra.weights import Drop, Fix, Rename

CYCLE = 3  # cells that the channels are read from in turn


@dataclass(frozen=True)
class Config(BackboneConfig):
    depths: tuple[int, int, int, int]  # blocks per stage
    widths: tuple[int, int, int, int] = (64, 128, 320, 512)  # channels per stage
    ratios: tuple[int, int, int, int] = (4, 4, 4, 4)  # of the perceptrons' insides, per stage


class CycleFC(nn.Module):
    """A linear layer whose input channel i is read (i + 1) mod 3 - 1 cells further along an axis:
    [B, H, W, C] -> same.

    Source: arXiv:2107.10224, equation 2, with the offsets of the authors' code.
    """

    def __init__(self, width: int, down: bool) -> None:
        """`down` reads along the height instead of the width."""
        super().__init__()
        moved = [(i + CYCLE // 2) % CYCLE - CYCLE // 2 for i in range(width)]
        still = [0] * width
        self.shift = Shift(moved, still) if down else Shift(still, moved)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.shift(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return y


class CycleMix(nn.Module):
    """Three branches (along width, along height, in place), merged by split attention: [B, H, W, C] -> same.

    Source: arXiv:2107.10224, figure 4, the Spatial Proj.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.across, self.down = CycleFC(width, down=False), CycleFC(width, down=True)
        self.place = nn.Linear(width, width, bias=False)
        self.merge = Merge(width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.merge(self.across(x), self.down(x), self.place(x)))
        return y


class Block(nn.Module):
    """Cycle mixing and perceptron, each after a norm and added to its input: [B, H, W, C] -> same."""

    def __init__(self, width: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.mix = CycleMix(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, ratio * width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.mix(self.norm1(x)))
        y: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return y


class CycleMLP(Backbone):
    """[B, channels, H, W] -> maps at strides 4, 8, 16, 32."""

    first_conv = "steps.0.weight"
    embedding_only = ("norm.",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        # The step into a stage: overlapping patches of 7 x 7 pixels, then 3 x 3 cells.
        self.steps, self.stages = nn.ModuleList(), nn.ModuleList()
        inputs = config.channels
        for i, (depth, width, ratio) in enumerate(zip(config.depths, config.widths, config.ratios, strict=True)):
            self.steps.append(nn.Conv2d(inputs, width, 3, 2, 1) if i else nn.Conv2d(inputs, width, 7, 4, 2))
            self.stages.append(nn.ModuleList(Block(width, ratio, next(rates)) for _ in range(depth)))
            inputs = width
        self.levels = tuple(Level(4 * 2**i, width) for i, width in enumerate(config.widths))
        self.width = inputs
        if config.level_norms:
            self.norms = nn.ModuleList(nn.LayerNorm(width) for width in config.widths)
        if config.embedding:
            self.norm = nn.LayerNorm(self.width)
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = pad_to_multiple(images, 4)
        for i, (step, stage) in enumerate(zip(self.steps, self.stages, strict=True)):
            x = step(x).permute(0, 2, 3, 1)  # [B, H, W, C]
            for block in stage.children():
                x = self.run_block(block, x)
            on_level((self.norms[i](x) if self.config.level_norms else x).permute(0, 3, 1, 2))
            x = x.permute(0, 3, 1, 2)
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for step, stage in zip(self.steps, self.stages, strict=True):
            parts += [step, *stage.children()]
        return parts + [getattr(self, name) for name in ("norms", "norm") if hasattr(self, name)]


MODEL = CycleMLP

VARIANTS = {
    "cyclemlp_b1": Config((2, 2, 4, 2)),
    "cyclemlp_b2": Config((2, 3, 10, 3)),
    "cyclemlp_b3": Config((3, 4, 18, 3), ratios=(8, 8, 4, 4)),
    "cyclemlp_b4": Config((3, 8, 27, 3), ratios=(8, 8, 4, 4)),
    "cyclemlp_b5": Config((3, 4, 24, 3), (96, 192, 384, 768)),
}

ALIASES: dict[str, str] = {}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "cyclemlp_b1": (78.9, "authors' README"),
    "cyclemlp_b2": (81.6, "authors' README"),
    "cyclemlp_b3": (82.4, "authors' README"),
    "cyclemlp_b4": (83.0, "authors' README"),
    "cyclemlp_b5": (83.2, "authors' README"),
}

WEIGHTS: dict[str, weights.Weights] = {}

# The authors' network alternates stages (even) and downsamplings (odd). Their sfc_h reads along the width.
_official = (
    Drop(r"\.offset$", "computed from the sizes"),
    Rename(r"^patch_embed\.proj\.", "steps.0."),
    Rename(r"^network\.([135])\.proj\.", lambda m: f"steps.{(int(m[1]) + 1) // 2}."),
    Rename(r"^network\.([0246])\.", lambda m: f"stages.{int(m[1]) // 2}."),
    Rename(r"\.attn\.sfc_h\.", ".mix.across.linear."),
    Rename(r"\.attn\.sfc_w\.", ".mix.down.linear."),
    Fix(r"\.mix\.(across|down)\.linear\.weight$", lambda t: t.flatten(1), "[C, C, 1, 1] -> [C, C]"),
    Rename(r"\.attn\.mlp_c\.", ".mix.place."),
    Rename(r"\.attn\.reweight\.fc1\.", ".mix.merge.reduce."),
    Rename(r"\.attn\.reweight\.fc2\.", ".mix.merge.expand."),
    Rename(r"\.attn\.proj\.", ".mix.project."),
    Rename(r"\.mlp\.fc1\.", ".mlp.expand."),
    Rename(r"\.mlp\.fc2\.", ".mlp.project."),
    Rename(r"^norm([0246])\.", lambda m: f"norms.{int(m[1]) // 2}."),
)

RULES = {"official": _official}
