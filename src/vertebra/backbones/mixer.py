"""MLP-Mixer: perceptrons over patches, then over channels.

Source: MLP-Mixer: An all-MLP Architecture for Vision, arXiv:2105.01601.

Shapes: B batch, N patches, C width.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from vertebra.backbones.isotropic import FixedGrid, FixedGridConfig
from vertebra.nn.drop import DropPath
from vertebra.nn.mlp import Mlp
from vertebra.weights import Rename
from vertebra.weights.card import HALF, published

EPS = 1e-6  # of the layer norms


Config = FixedGridConfig


class Block(nn.Module):
    """A perceptron over patches and one over channels, each after a norm and added to its input: [B, N, C] -> same.

    Source: arXiv:2105.01601, equation 1, hidden widths C / 2 and 4C as in its table 1.
    """

    def __init__(self, width: int, patches: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.tokens = Mlp(patches, width // 2)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.channels = Mlp(width, 4 * width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        y: Tensor = x + self.drop(self.channels(self.norm2(x)))
        return y


class Mixer(FixedGrid):
    """[B, channels, H, W] -> one map [B, C, H / patch, W / patch]."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, partial(Block, config.width), partial(nn.LayerNorm, eps=EPS))


MODEL = Mixer

VARIANTS = {
    "mixer_s32": Config(32, 512, 8),
    "mixer_s16": Config(16, 512, 8),
    "mixer_b32": Config(32, 768, 12),
    "mixer_b16": Config(16, 768, 12),
    "mixer_l32": Config(32, 1024, 24),
    "mixer_l16": Config(16, 1024, 24),
    "mixer_h14": Config(14, 1280, 32),
}

ALIASES = {f"{name}_224": name for name in VARIANTS}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "mixer_b16": (76.4, "Swin's README"),
    "mixer_l16": (72.34, "mmpretrain"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "mixer_b16.goog_in21k_ft_in1k": published(
        "mixer_b16_224.goog_in21k_ft_in1k", "apache-2.0", 76.64, 224, 0.875, "bicubic", mean=HALF, std=HALF
    ),
    "mixer_b16.miil_in21k_ft_in1k": published(
        "mixer_b16_224.miil_in21k_ft_in1k",
        "apache-2.0",
        82.31,
        224,
        0.875,
        "bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    "mixer_l16.goog_in21k_ft_in1k": published(
        "mixer_l16_224.goog_in21k_ft_in1k", "apache-2.0", 72.09, 224, 0.875, "bicubic", mean=HALF, std=HALF
    ),
}

_timm = (
    Rename(r"^stem\.proj\.", "patches."),
    Rename(r"\.mlp_tokens\.fc1\.", ".tokens.expand."),
    Rename(r"\.mlp_tokens\.fc2\.", ".tokens.project."),
    Rename(r"\.mlp_channels\.fc1\.", ".channels.expand."),
    Rename(r"\.mlp_channels\.fc2\.", ".channels.project."),
)

RULES = {"timm": _timm}
