"""S2-MLP: perceptrons over channels, with quarters of the channels shifted one cell up, down, left and right.

Source: S2-MLP: Spatial-Shift MLP Architecture for Vision, arXiv:2106.07477. There is no code by its authors; the
expansion ratio of 4 in both sizes is the one that gives the 14.0 and 10.5 billion multiply-adds of its table 1.

Shapes: B batch, H x W patches, C width. Inside, maps are [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.mlp import LinearGelu, Mlp
from vertebra.nn.patch import PatchEmbed, init_linear
from vertebra.nn.shift import Shift
from vertebra.structures import Level


@dataclass(frozen=True)
class Config(BackboneConfig):
    width: int
    depth: int
    patch: int = 16  # side in pixels


class Block(nn.Module):
    """A shifted and a plain perceptron, each after a norm and added to its input: [B, H, W, C] -> same.

    Source: arXiv:2106.07477, equations 4 to 7; cells at the border keep their own value.
    """

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        quarter = width // 4
        still, moved = [0] * 2 * quarter, [-1] * quarter + [1] * quarter
        self.norm1 = nn.LayerNorm(width)
        self.enter = LinearGelu(width, width)
        self.shift = Shift(rows=still + moved, columns=moved + still, edge=True)
        self.leave = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(self.norm1(x))
        y = self.shift(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop(self.leave(y))
        z: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return z


class S2MLP(Backbone):
    """[B, channels, H, W] -> one map [B, C, H / patch, W / patch]."""

    first_conv = "patches.weight"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patches = PatchEmbed(config.channels, config.width, config.patch)
        self.norm = nn.LayerNorm(config.width)  # of the patches: section 3.1
        self.blocks = nn.ModuleList(
            Block(config.width, rate) for rate in drop_path_rates(config.drop_path, config.depth)
        )
        self.levels, self.width = (Level(config.patch, config.width),), config.width
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.norm(self.patches(images).permute(0, 2, 3, 1))  # [B, H, W, C]
        for block in self.blocks:
            x = self.run_block(block, x)
        x = x.permute(0, 3, 1, 2)
        on_level(x)
        return x

    def layers(self) -> list[nn.Module]:
        return [self.patches, self.norm, *self.blocks]


MODEL = S2MLP

VARIANTS = {
    "s2mlp_wide": Config(768, 12),
    "s2mlp_deep": Config(384, 36),
}

ALIASES: dict[str, str] = {}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "s2mlp_deep": (80.7, "paper"),
}

WEIGHTS: dict[str, weights.Weights] = {}

RULES: dict[str, weights.Rules] = {}  # nobody has published checkpoints
