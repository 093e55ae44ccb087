"""AS-MLP: perceptrons with axial shifts of groups of channels.

Source: AS-MLP: An Axial Shifted MLP Architecture for Vision, arXiv:2107.08391.

Shapes: B batch, H x W feature cells, C channels. Maps are [B, C, H, W] in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.errors import VertebraError
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.patch import PatchEmbed, pad_to_multiple
from vertebra.nn.shift import Shift
from vertebra.structures import Level
from vertebra.weights import Rename


@dataclass(frozen=True)
class Config(BackboneConfig):
    width: int  # channels of the first stage; doubled in each further one
    depths: tuple[int, int, int, int]  # blocks per stage
    shift: int = 5  # groups, moved -2 to 2 cells

    def __post_init__(self) -> None:
        if self.shift % 2 == 0 or self.shift < 1:
            raise VertebraError(
                f"shift is {self.shift}; it is the number of groups of channels, and has to be odd: 1, 3, 5 ..."
            )


class AxialShift(nn.Module):
    """1x1; shifted along each axis, a 1x1 of its own and GELU; their sum; 1x1: [B, C, H, W] -> same.

    Source: arXiv:2107.08391, figure 2 and equation 2.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        size = -(-width // groups)
        # Group g moves by g - groups // 2 cells, so each cell reads from as many cells before.
        moved, still = [groups // 2 - i // size for i in range(width)], [0] * width
        self.enter, self.norm1 = nn.Conv2d(width, width, 1), nn.GroupNorm(1, width)
        self.shift_across, self.across = Shift(still, moved), nn.Conv2d(width, width, 1)
        self.shift_down, self.down = Shift(moved, still), nn.Conv2d(width, width, 1)
        self.norm2, self.leave = nn.GroupNorm(1, width), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        x = gelu(self.norm1(self.enter(x)))
        x = gelu(self.across(self.shift_across(x))) + gelu(self.down(self.shift_down(x)))
        y: Tensor = self.leave(self.norm2(x))
        return y


class Block(nn.Module):
    """Axial shift and perceptron, each after a norm and added to its input: [B, C, H, W] -> same."""

    def __init__(self, width: int, groups: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, width)
        self.mix = AxialShift(width, groups)
        self.norm2 = nn.GroupNorm(1, width)
        self.mlp = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.mix(self.norm1(x)))
        y: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return y


class PatchMerging(nn.Module):
    """Four neighbours to one cell of twice the channels: [B, C, H, W] -> [B, 2C, ceil(H / 2), ceil(W / 2)]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 4 * width)
        self.reduction = nn.Conv2d(4 * width, 2 * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, 2)
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y: Tensor = self.reduction(self.norm(torch.cat(corners, 1)))
        return y


class ASMLP(Backbone):
    """[B, channels, H, W] -> maps at strides 4, 8, 16, 32."""

    first_conv = "patches.weight"
    embedding_only = ("norm.",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patches = PatchEmbed(config.channels, config.width, 4)
        self.patch_norm = nn.GroupNorm(1, config.width)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        self.stages, self.merges, levels = nn.ModuleList(), nn.ModuleList(), []
        for i, depth in enumerate(config.depths):
            width = config.width * 2**i
            if i:
                self.merges.append(PatchMerging(width // 2))
            self.stages.append(nn.ModuleList(Block(width, config.shift, next(rates)) for _ in range(depth)))
            levels.append(Level(4 * 2**i, width))
        self.levels, self.width = tuple(levels), levels[-1].channels
        if config.level_norms:
            self.norms = nn.ModuleList(nn.GroupNorm(1, level.channels) for level in levels)
        if config.embedding:
            self.norm = nn.GroupNorm(1, self.width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.patch_norm(self.patches(images).contiguous(memory_format=torch.channels_last))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.run_block(self.merges[i - 1], x)
            for block in stage.children():
                x = self.run_block(block, x)
            on_level(self.norms[i](x) if self.config.level_norms else x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.norm(x).mean((2, 3))

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = [nn.ModuleList([self.patches, self.patch_norm])]
        for i, stage in enumerate(self.stages):
            parts += [*self.merges[i - 1 : i], *stage.children()]
        return parts + [getattr(self, name) for name in ("norms", "norm") if hasattr(self, name)]


MODEL = ASMLP

VARIANTS = {
    "asmlp_mobile": Config(64, (2, 2, 2, 2)),  # the paper's mobile setting
    "asmlp_tiny": Config(96, (2, 2, 6, 2)),
    "asmlp_small": Config(96, (2, 2, 18, 2)),
    "asmlp_base": Config(128, (2, 2, 18, 2)),
}

ALIASES: dict[str, str] = {}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "asmlp_mobile": (76.05, "paper"),
    "asmlp_tiny": (81.3, "authors' README"),
    "asmlp_small": (83.1, "authors' README"),
    "asmlp_base": (83.3, "authors' README"),
}

WEIGHTS: dict[str, weights.Weights] = {}

_official = (
    Rename(r"^patch_embed\.proj\.", "patches."),
    Rename(r"^patch_embed\.norm\.", "patch_norm."),
    Rename(r"\.axial_shift\.conv1\.", ".mix.enter."),
    Rename(r"\.axial_shift\.conv2_1\.", ".mix.across."),
    Rename(r"\.axial_shift\.conv2_2\.", ".mix.down."),
    Rename(r"\.axial_shift\.conv3\.", ".mix.leave."),
    Rename(r"\.axial_shift\.norm", ".mix.norm"),
    Rename(r"\.mlp\.fc1\.", ".mlp.0."),
    Rename(r"\.mlp\.fc2\.", ".mlp.2."),
    Rename(r"^layers\.(\d)\.downsample\.", r"merges.\1."),
    Rename(r"^layers\.(\d)\.blocks\.", r"stages.\1."),
    Rename(r"^norm(\d)\.", r"norms.\1."),
)

_inside = (Rename(r"^backbone\.", ""), *_official)  # of a whole detector or segmenter

RULES = {"official": _official, "mmdet": _inside, "mmseg": _inside}
