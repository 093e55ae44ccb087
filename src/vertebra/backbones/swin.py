"""Swin Transformer: attention inside windows that shift from block to block.

Source: Swin Transformer, arXiv:2103.14030.

Shapes: B batch, H x W feature cells, C channels, M side of a window in cells. Inside, maps are [B, H, W, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.attention import WindowAttention
from vertebra.attention.window import Shift, all_known, from_windows, is_longer, to_windows, window_mask
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.errors import one_of
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.mlp import Mlp
from vertebra.nn.patch import PatchEmbed, init_linear, resize_grid
from vertebra.structures import Level
from vertebra.weights import Drop, Fix, Join, Rename
from vertebra.weights.card import published
from vertebra.weights.paddle import transposed

SHIFTS = ("per_axis", "both", "either", "always")
"""When windows are shifted: `per_axis`, along every axis with more than one window; along both axes if `both` have more
than one, or if `either` has; or `always`."""


@dataclass(frozen=True)
class Config(BackboneConfig):
    width: int  # channels of the first stage; doubled in each further one
    depths: tuple[int, int, int, int]  # blocks per stage
    heads: tuple[int, int, int, int]  # per stage
    window: int = 7  # M
    absolute: bool = False  # whether a learned position embedding is added to the patches
    shifts: str = "per_axis"  # when windows are shifted, one of SHIFTS

    def __post_init__(self) -> None:
        one_of("shifts", self.shifts, SHIFTS)


class Stem(nn.Module):
    """Patches of 4 x 4 pixels, normed: [B, channels, H, W] -> [B, ceil(H / 4), ceil(W / 4), C]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patches = PatchEmbed(config.channels, config.width, 4)
        self.norm = nn.LayerNorm(config.width)
        self.grid = (-(-config.image_size[0] // 4), -(-config.image_size[1] // 4))
        self.position = None
        if config.absolute:
            self.position = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], config.width))
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.norm(self.patches(images).permute(0, 2, 3, 1))
        if self.position is not None:
            grid = (x.shape[1], x.shape[2])
            x = x + resize_grid(self.position, grid, self.grid).unflatten(1, grid)
        return x


class Block(nn.Module):
    """Window attention and perceptron, each after a norm and added to its input: [B, H, W, C] -> same.

    Source: arXiv:2103.14030, equation 3.
    """

    def __init__(self, config: Config, width: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = config.window, config.window // 2 if shifted else 0
        self.shifts = config.shifts
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, config.window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` is that of `shift_mask` for a map of this size."""
        x = x + self.drop(self.attend(self.norm1(x), mask))
        y: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return y

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        window, shifts = self.geometry(size)
        windows = to_windows(x, window, shifts)  # [B, windows, M * M, C]
        y = self.attention(windows.flatten(0, 1), mask if not all_known(shifts) or any(shifts) else None)
        return from_windows(y.unflatten(0, windows.shape[:2]), window, shifts, size)

    def geometry(self, size: tuple[int, int]) -> tuple[tuple[int, int], list[Shift]]:
        """Sides of the windows of a map of (height, width) `size`, and their shifts, in cells."""
        return (self.window,) * 2, [
            self.shift and self.shift * moved for moved in shifted_axes(*size, self.window, self.shifts)
        ]

    def rollout(self, share: Tensor, attention: Tensor) -> Tensor:
        """The share of each cell in the input, from those in the output of attention: [B, H, W] -> same.

        `attention` is [B * windows, M * M, M * M].
        """
        size = (share.shape[1], share.shape[2])
        window, shifts = self.geometry(size)
        windows = to_windows(share[..., None], window, shifts)  # [B, windows, M * M, 1]
        moved = attention.unflatten(0, windows.shape[:2]).transpose(-2, -1) @ windows
        return from_windows(moved, window, shifts, size)[..., 0]


class PatchMerging(nn.Module):
    """Four neighbours to one cell of twice the channels: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), 2C].

    Source: arXiv:2103.14030, section 3.1, neighbours in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        if not all_known((height, width)) or height % 2 or width % 2:
            x = nn.functional.pad(x, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        x = x.view(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        y: Tensor = self.reduction(self.norm(x))
        return y


def shifted_axes(height: int, width: int, window: int, shifts: str) -> tuple[bool | Tensor, bool | Tensor]:
    """Whether the windows of a map are shifted downwards, and sideways; `shifts` is one of SHIFTS."""
    down, sideways = is_longer(height, window), is_longer(width, window)
    if shifts == "per_axis":
        return down, sideways
    return ({"both": down & sideways, "either": down | sideways, "always": True}[shifts],) * 2


def shift_mask(
    height: int, width: int, window: int, like: Tensor, axes: tuple[bool | Tensor, bool | Tensor] = (True, True)
) -> Tensor:
    """-100 between cells that share a window only by the shift along `axes`, else 0: [windows, M * M, M * M].

    Source: arXiv:2103.14030, section 3.2 and figure 4.
    """
    shift = [window // 2 * shifted for shifted in axes]
    same = window_mask((height, width), (window, window), shift, like.device)
    return torch.where(same, 0.0, -100.0).to(like.dtype)


class Swin(Backbone):
    """[B, channels, H, W] -> maps at strides 4, 8, 16, 32."""

    first_conv = "stem.patches.weight"
    embedding_only = ("norm.",)
    no_weight_decay = ("position", "bias_table")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stem = Stem(config)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        self.stages, self.merges, levels = nn.ModuleList(), nn.ModuleList(), []
        for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            width = config.width * 2**i
            if i:
                self.merges.append(PatchMerging(width // 2))
            self.stages.append(
                nn.ModuleList(Block(config, width, heads, bool(j % 2), next(rates)) for j in range(depth))
            )
            levels.append(Level(4 * 2**i, width))
        self.levels, self.width = tuple(levels), levels[-1].channels
        if config.level_norms:
            self.norms = nn.ModuleList(nn.LayerNorm(level.channels) for level in levels)
        if config.embedding:
            self.norm = nn.LayerNorm(self.width)
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.stem(images)  # [B, H / 4, W / 4, C]
        for i, stage in enumerate(self.stages):
            if i:
                x = self.run_block(self.merges[i - 1], x)
            size = (x.shape[1], x.shape[2])
            mask = shift_mask(*size, self.config.window, x, shifted_axes(*size, self.config.window, self.config.shifts))
            for block in stage.children():
                x = self.run_block(block, x, mask)
            on_level((self.norms[i](x) if self.config.level_norms else x).permute(0, 3, 1, 2))
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.norm(x).mean((1, 2))

    def rollout(self, weights: Sequence[Tensor], size: tuple[int, int], residual: float = 0.5) -> Tensor:
        """A merged cell comes from its four cells in equal parts."""
        grids = [(-(-size[0] // level.stride), -(-size[1] // level.stride)) for level in self.levels]
        windows = -(-grids[-1][0] // self.config.window) * -(-grids[-1][1] // self.config.window)
        share = weights[-1].new_full((len(weights[-1]) // windows, *grids[-1]), 1 / math.prod(grids[-1]))
        layers = list(weights)
        for i in reversed(range(len(self.stages))):
            for block in reversed(list(self.stages[i].children())):
                if not layers:
                    return share
                share = residual * share + (1 - residual) * block.rollout(share, layers.pop())  # type: ignore[operator]
            if i and layers:
                rows, columns = grids[i - 1]
                share = share.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :rows, :columns] / 4
        return share

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        if name.endswith(".bias_table") and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
            old, new = round(tensor.shape[0] ** 0.5), round(shape[0] ** 0.5)
            how = f"biases of windows of {(old + 1) // 2} -> {(new + 1) // 2} cells"
            return resize_grid(tensor[None], (new, new), (old, old))[0], how
        if name == "stem.position" and tensor.ndim == 3 and tensor.shape[2] == shape[2]:
            side = round(tensor.shape[1] ** 0.5)
            if side**2 != tensor.shape[1]:
                return None
            how = f"positions of a grid of {side} x {side} -> {self.stem.grid[0]} x {self.stem.grid[1]}"
            return resize_grid(tensor, self.stem.grid, (side, side)), how
        return super().adapt(name, tensor, shape)

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.stem]
        for i, stage in enumerate(self.stages):
            parts += [*self.merges[i - 1 : i], *stage.children()]
        return parts + [getattr(self, name) for name in ("norms", "norm") if hasattr(self, name)]


MODEL = Swin

VARIANTS = {
    #                 width  depths         heads
    "swin_tiny": Config(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": Config(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": Config(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_large": Config(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "swin_base_384": Config(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, image_size=(384, 384)),
    "swin_large_384": Config(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, image_size=(384, 384)),
}

ALIASES = {
    f"{name.removesuffix('_384')}_patch4_window{config.window}_{config.image_size[0]}": name
    for name, config in VARIANTS.items()
} | {"swin_t": "swin_tiny", "swin_s": "swin_small", "swin_b": "swin_base"}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "swin_tiny": (81.2, "authors' README"),
    "swin_small": (83.2, "authors' README"),
    "swin_base": (83.5, "authors' README"),
    "swin_large": (86.3, "authors' README"),
    "swin_base_384": (84.5, "authors' README"),
    "swin_large_384": (87.3, "authors' README"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "swin_tiny.ms_in1k": published("swin_tiny_patch4_window7_224.ms_in1k", "mit", 81.388, 224, 0.9, "bicubic"),
    "swin_tiny.ms_in22k_ft_in1k": published(
        "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", "mit", 80.966, 224, 0.9, "bicubic"
    ),
    "swin_small.ms_in1k": published("swin_small_patch4_window7_224.ms_in1k", "mit", 83.228, 224, 0.9, "bicubic"),
    "swin_small.ms_in22k_ft_in1k": published(
        "swin_small_patch4_window7_224.ms_in22k_ft_in1k", "mit", 83.33, 224, 0.9, "bicubic"
    ),
    "swin_base.ms_in1k": published("swin_base_patch4_window7_224.ms_in1k", "mit", 83.61, 224, 0.9, "bicubic"),
    "swin_base.ms_in22k_ft_in1k": published(
        "swin_base_patch4_window7_224.ms_in22k_ft_in1k", "mit", 85.27, 224, 0.9, "bicubic"
    ),
    "swin_large.ms_in22k_ft_in1k": published(
        "swin_large_patch4_window7_224.ms_in22k_ft_in1k", "mit", 86.33, 224, 0.9, "bicubic"
    ),
    "swin_base_384.ms_in1k": published("swin_base_patch4_window12_384.ms_in1k", "mit", 84.476, 384, 1.0, "bicubic"),
    "swin_base_384.ms_in22k_ft_in1k": published(
        "swin_base_patch4_window12_384.ms_in22k_ft_in1k", "mit", 86.438, 384, 1.0, "bicubic"
    ),
    "swin_large_384.ms_in22k_ft_in1k": published(
        "swin_large_patch4_window12_384.ms_in22k_ft_in1k", "mit", 87.138, 384, 1.0, "bicubic"
    ),
}

_DERIVED = Drop(r"\.(relative_position_index|attn_mask)$", "computed from the sizes")
_BLOCK = (
    Rename(r"\.attn\.relative_position_bias_table$", ".attention.bias_table"),
    Rename(r"\.attn\.qkv\.", ".attention.qkv."),
    Rename(r"\.attn\.proj\.", ".attention.project."),
    Rename(r"\.mlp\.(fc1|0)\.", ".mlp.expand."),
    Rename(r"\.mlp\.(fc2|3)\.", ".mlp.project."),
)
_official = (
    _DERIVED,
    Rename(r"^head\.fc\.", "head."),
    *_BLOCK,
    Rename(r"^absolute_pos_embed$", "stem.position"),
    Rename(r"^patch_embed\.proj\.", "stem.patches."),
    Rename(r"^patch_embed\.norm\.", "stem.norm."),
    Rename(r"^layers\.(\d)\.downsample\.", r"merges.\1."),
    Rename(r"^layers\.(\d)\.blocks\.", r"stages.\1."),
    Rename(r"^norm(\d)\.", r"norms.\1."),
)
_timm = (
    # timm merges at the beginning of a stage, the others at the end of the one before.
    Rename(r"^layers\.(\d)\.downsample\.", lambda m: f"merges.{int(m[1]) - 1}."),
    *_official,
)
_torchvision = (
    _DERIVED,
    *_BLOCK,
    Rename(r"^features\.0\.0\.", "stem.patches."),
    Rename(r"^features\.0\.2\.", "stem.norm."),
    Rename(r"^features\.([246])\.", lambda m: f"merges.{int(m[1]) // 2 - 1}."),
    Rename(r"^features\.([1357])\.", lambda m: f"stages.{int(m[1]) // 2}."),
)
_transformers = (
    _DERIVED,
    Rename(r"^(swin|backbone)\.", ""),
    Drop(r"^pooler\.", "the pooler has no parameters of use"),
    Rename(r"^embeddings\.patch_embeddings\.projection\.", "stem.patches."),
    Rename(r"^embeddings\.norm\.", "stem.norm."),
    Rename(r"^embeddings\.position_embeddings$", "stem.position"),
    Join(r"\.attention\.self\.(query|key|value)\.", ("query", "key", "value"), "qkv"),
    Rename(r"\.attention\.self\.qkv\.", ".attention.qkv."),
    Rename(r"\.attention\.self\.relative_position_bias_table$", ".attention.bias_table"),
    Rename(r"\.attention\.output\.dense\.", ".attention.project."),
    Rename(r"\.intermediate\.dense\.", ".mlp.expand."),
    Rename(r"\.output\.dense\.", ".mlp.project."),
    Rename(r"\.layernorm_before\.", ".norm1."),
    Rename(r"\.layernorm_after\.", ".norm2."),
    Rename(r"^encoder\.layers\.(\d)\.blocks\.", r"stages.\1."),
    Rename(r"^encoder\.layers\.(\d)\.downsample\.", r"merges.\1."),
    Rename(r"^hidden_states_norms\.stage(\d)\.", lambda m: f"norms.{int(m[1]) - 1}."),
    Rename(r"^layernorm\.", "norm."),
    Rename(r"^classifier\.", "head."),
)
_transformers_backbone = (
    Drop(r"^(?:backbone\.)?(?:swin\.)?layernorm\.", "the backbone has a norm for each level"),
    *_transformers,
)


def _unfolded(tensor: Tensor) -> Tensor:
    """MMDetection's neighbours, channel by channel in the order (0, 0), (0, 1), (1, 0), (1, 1), in Swin's order."""
    return tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


_mmdet = (
    Rename(r"^backbone\.", ""),
    Rename(r"\.attn\.w_msa\.", ".attn."),
    Rename(r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    Rename(r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    Rename(r"^patch_embed\.projection\.", "stem.patches."),
    Rename(r"^stages\.(\d)\.blocks\.", r"layers.\1.blocks."),
    Rename(r"^stages\.(\d)\.downsample\.", r"merges.\1."),
    Fix(r"^merges\.\d\.", _unfolded, "the order of the merged neighbours"),
    *_official,
)
_paddle = (
    # Names: PaddleClas 2.5, ppcls/arch/backbone/legendary_models/swin_transformer.py.
    transposed(r"\.(attn\.(qkv|proj)|mlp\.fc[12]|downsample\.reduction)\.weight$|^head\.weight$"),
    Drop(r"\.relative_position_bias$", "computed from its table"),
    *_official,
)

RULES = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "official": _official,
    "timm/0.8": _official,  # checkpoints from before it moved the merging
    "official/multiscale": _official,
    "official/bare": _official,
    "transformers/backbone": _transformers_backbone,
    "mmdet": _mmdet,
    "mmseg": _mmdet,
    "paddle": _paddle,
}


def _official_shifts(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The authors' code stores its masks; the port of it that takes any size computes them for every image. A file
    without these tables may be of either; the two agree where a map has several windows along both axes."""
    buffers = {name.rpartition(".")[2] for name in state}
    if "attn_mask" in buffers:
        return {"shifts": "both"}
    return {"shifts": "always" if "relative_position_index" in buffers else "either"}


def _transformers_shifts(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The library's backbones differ from its classifiers."""
    return {"shifts": "always" if any("hidden_states_norms." in name for name in state) else "both"}


PRESETS: dict[str, Any] = {
    "official": _official_shifts,
    "official/multiscale": {"shifts": "always"},
    "official/bare": {"shifts": "either"},
    "timm/0.8": {"shifts": "both"},
    "transformers": _transformers_shifts,
    "transformers/backbone": {"shifts": "always"},
    "paddle": {"shifts": "both"},
    "mmdet": {"shifts": "always"},
    "mmseg": {"shifts": "always"},
}
