"""ResMLP: a linear layer over patches, then a perceptron over channels, without any norm.

Source: ResMLP: Feedforward networks for image classification with data-efficient training, arXiv:2105.03404.

Shapes: B batch, N patches, C width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from vertebra.backbones.isotropic import FixedGrid, FixedGridConfig
from vertebra.nn.drop import DropPath
from vertebra.nn.mlp import Mlp
from vertebra.weights import Fix, Rename
from vertebra.weights.card import published

Config = FixedGridConfig


class Affine(nn.Module):
    """A factor and an offset per channel: [..., C] -> same.

    Source: arXiv:2105.03404, equation 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class Block(nn.Module):
    """A linear layer over patches and a perceptron over channels, scaled and added to the input: [B, N, C] -> same.

    Source: arXiv:2105.03404, equations 2 and 3.
    """

    def __init__(self, config: Config, patches: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = Affine(config.width), Affine(config.width)
        self.tokens = nn.Linear(patches, patches)
        self.channels = Mlp(config.width, 4 * config.width)
        # Smaller for deeper networks: arXiv:2103.17239, section 2.
        deep = config.depth > 24 or config.width > 384  # B24 begins as S36
        scale = 0.1 if config.depth <= 18 else 1e-6 if deep else 1e-5
        self.scale1 = nn.Parameter(torch.full((config.width,), scale))
        self.scale2 = nn.Parameter(torch.full((config.width,), scale))
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.scale1 * self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        y: Tensor = x + self.drop(self.scale2 * self.channels(self.norm2(x)))
        return y


class ResMLP(FixedGrid):
    """[B, channels, H, W] -> one map [B, C, H / patch, W / patch]."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, partial(Block, config), Affine)


MODEL = ResMLP

VARIANTS = {
    "resmlp_12": Config(16, 384, 12),
    "resmlp_24": Config(16, 384, 24),
    "resmlp_36": Config(16, 384, 36),
    "resmlp_big_24_16": Config(16, 768, 24),  # the paper's B24
    "resmlp_big_24": Config(8, 768, 24),  # its B24/8, by the name that the authors' code and timm give it
}

ALIASES = {f"{name}_224": name for name in VARIANTS}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "resmlp_12": (77.8, "authors' README"),
    "resmlp_24": (80.8, "authors' README"),
    "resmlp_36": (81.1, "authors' README"),
    "resmlp_big_24": (83.6, "authors' README"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "resmlp_12.fb_distilled_in1k": published(
        "resmlp_12_224.fb_distilled_in1k", "apache-2.0", 77.948, 224, 0.875, "bicubic"
    ),
    "resmlp_12.fb_in1k": published("resmlp_12_224.fb_in1k", "apache-2.0", 76.66, 224, 0.875, "bicubic"),
    "resmlp_24.fb_distilled_in1k": published(
        "resmlp_24_224.fb_distilled_in1k", "apache-2.0", 80.766, 224, 0.875, "bicubic"
    ),
    "resmlp_24.fb_in1k": published("resmlp_24_224.fb_in1k", "apache-2.0", 79.38, 224, 0.875, "bicubic"),
    "resmlp_36.fb_distilled_in1k": published(
        "resmlp_36_224.fb_distilled_in1k", "apache-2.0", 81.15, 224, 0.875, "bicubic"
    ),
    "resmlp_36.fb_in1k": published("resmlp_36_224.fb_in1k", "apache-2.0", 79.772, 224, 0.875, "bicubic"),
    "resmlp_big_24.fb_distilled_in1k": published(
        "resmlp_big_24_224.fb_distilled_in1k", "apache-2.0", 83.594, 224, 0.875, "bicubic"
    ),
    "resmlp_big_24.fb_in1k": published("resmlp_big_24_224.fb_in1k", "apache-2.0", 81.034, 224, 0.875, "bicubic"),
    "resmlp_big_24.fb_in22k_ft_in1k": published(
        "resmlp_big_24_224.fb_in22k_ft_in1k", "apache-2.0", 84.388, 224, 0.875, "bicubic"
    ),
}

_timm = (
    Rename(r"^stem\.proj\.", "patches."),
    Rename(r"\.linear_tokens\.", ".tokens."),
    Rename(r"\.mlp_channels\.fc1\.", ".channels.expand."),
    Rename(r"\.mlp_channels\.fc2\.", ".channels.project."),
    Rename(r"\.ls([12])$", r".scale\1"),
    Fix(r"\.(alpha|beta)$", torch.flatten, "[1, 1, C] -> [C]"),
)
_official = (
    Rename(r"^patch_embed\.proj\.", "patches."),
    Rename(r"\.attn\.", ".tokens."),
    Rename(r"\.mlp\.fc1\.", ".channels.expand."),
    Rename(r"\.mlp\.fc2\.", ".channels.project."),
    Rename(r"\.gamma_([12])$", r".scale\1"),
)

RULES = {"timm": _timm, "official": _official}
