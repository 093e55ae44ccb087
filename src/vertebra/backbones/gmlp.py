"""gMLP: perceptrons with spatial gating: one half of the channels, mixed over patches, gates the other.

Source: Pay Attention to MLPs, arXiv:2105.08050.

Shapes: B batch, N patches, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from vertebra.backbones.isotropic import FixedGrid, FixedGridConfig
from vertebra.nn.drop import DropPath
from vertebra.nn.mlp import LinearGelu
from vertebra.weights import Rename
from vertebra.weights.card import HALF, published

EPS = 1e-6  # of the layer norms, except in the gates


@dataclass(frozen=True)
class Config(FixedGridConfig):
    ratio: int = 6  # of the perceptrons' insides


class SpatialGate(nn.Module):
    """One half of the channels, normed and mixed over patches, times the other half: [B, N, 2C] -> [B, N, C].

    Source: arXiv:2105.08050, equation 4.
    """

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.tokens = nn.Linear(patches, patches)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * self.tokens(self.norm(gate).transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Norm, linear layer, GELU, spatial gate and linear layer, added to the input: [B, N, C] -> same.

    Source: arXiv:2105.08050, figure 1.
    """

    def __init__(self, config: Config, patches: int, drop_path: float) -> None:
        super().__init__()
        hidden = config.ratio * config.width
        self.norm = nn.LayerNorm(config.width, EPS)
        self.expand = LinearGelu(config.width, hidden)
        self.gate = SpatialGate(hidden // 2, patches)
        self.project = nn.Linear(hidden // 2, config.width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.drop(self.project(self.gate(self.expand(self.norm(x)))))
        return y


class GMLP(FixedGrid):
    """[B, channels, H, W] -> one map [B, C, H / patch, W / patch]."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, partial(Block, config), partial(nn.LayerNorm, eps=EPS))
        for module in self.modules():
            if isinstance(
                module, SpatialGate
            ):  # the gate starts near one, so that a block starts as a plain perceptron
                nn.init.normal_(module.tokens.weight, std=1e-6)
                nn.init.ones_(module.tokens.bias)


MODEL = GMLP

VARIANTS = {
    "gmlp_ti16": Config(16, 128, 30),
    "gmlp_s16": Config(16, 256, 30),
    "gmlp_b16": Config(16, 512, 30),
}

ALIASES = {f"{name}_224": name for name in VARIANTS}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "gmlp_ti16": (72.3, "paper"),
    "gmlp_s16": (79.6, "paper"),
    "gmlp_b16": (81.6, "paper"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "gmlp_s16.ra3_in1k": published(
        "gmlp_s16_224.ra3_in1k", "apache-2.0", 79.644, 224, 0.875, "bicubic", mean=HALF, std=HALF
    ),
}

_timm = (
    Rename(r"^stem\.proj\.", "patches."),
    Rename(r"\.mlp_channels\.fc1\.", ".expand."),
    Rename(r"\.mlp_channels\.fc2\.", ".project."),
    Rename(r"\.mlp_channels\.gate\.norm\.", ".gate.norm."),
    Rename(r"\.mlp_channels\.gate\.proj\.", ".gate.tokens."),
)

RULES = {"timm": _timm}
