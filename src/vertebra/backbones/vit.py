"""Vision transformers: ViT and DeiT.

Sources: An Image is Worth 16x16 Words, arXiv:2010.11929; Training data-efficient image transformers (DeiT and its
distillation token), arXiv:2012.12877; mean pooling instead of a class token's head, arXiv:2106.04560, section 3.1.

Shapes: B batch, N patches, P tokens before them, C width, h x w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vertebra import weights
from vertebra.attention import SelfAttention
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.errors import VertebraError, in_range, one_of
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.mlp import Mlp
from vertebra.nn.patch import PatchEmbed, grid_map, init_linear, resize_grid, same_grid, tokens
from vertebra.options import training_only
from vertebra.structures import Level
from vertebra.weights import Drop, Fix, Join, Rename
from vertebra.weights.card import HALF, published
from vertebra.weights.paddle import transposed


@dataclass(frozen=True)
class Config(BackboneConfig):
    patch: int  # side in pixels
    width: int
    depth: int
    heads: int
    distilled: bool = False  # a second token, trained on a teacher's labels; each token has a classifier
    pool: str = "token"  # the embedding: the class `token`, or the `mean` of the patches
    gelu: str = "none"  # its form: `none` (exact) or `tanh`
    class_token: bool = True  # without it, the position of the class token is added to those of the patches
    map_norm: bool = False  # whether the map is normalised, as in ViTPose
    patch_padding: int = 0  # zeros around the image in pixels, as in ViTPose
    dropout: float = training_only(0.0)  # after the position embedding
    eps: float = 1e-6  # of the layer norms

    def __post_init__(self) -> None:
        one_of("pool", self.pool, ("token", "mean"))
        one_of("gelu", self.gelu, ("none", "tanh"))
        if self.distilled and self.pool == "mean":
            raise VertebraError("a distilled model has a classifier for each of its tokens: pool=mean does not apply.")
        if not self.class_token and (self.distilled or self.pool == "token"):
            raise VertebraError("without a class token, a model is not distilled, and pool must be mean.")
        in_range("patch_padding", self.patch_padding, 0, self.patch // 2)


class Embedding(nn.Module):
    """Patches and tokens with their positions: [B, channels, H, W] -> [B, P + N, C] and the grid (h, w).

    On a grid other than that of `config.image_size`, the positions of the patches are resampled.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patches = PatchEmbed(config.channels, config.width, config.patch, config.patch_padding)
        self.grid = (-(-config.image_size[0] // config.patch), -(-config.image_size[1] // config.patch))
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        self.distill_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.distilled else None
        self.before = config.class_token + config.distilled  # P
        self.first = 2 if config.distilled else 1  # rows of the table before those of the patches
        self.position = nn.Parameter(torch.zeros(1, self.first + self.grid[0] * self.grid[1], config.width))
        self.dropout = nn.Dropout(config.dropout)
        for parameter in (self.class_token, self.distill_token, self.position):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.patches(images)  # [B, C, h, w]
        grid = (x.shape[2], x.shape[3])
        position = self.resized(self.position, grid, self.grid)
        if self.class_token is None:
            return self.dropout(tokens(x) + position[:, 1:] + position[:, :1]), grid
        before = [t.expand(x.shape[0], -1, -1) for t in (self.class_token, self.distill_token) if t is not None]
        return self.dropout(torch.cat((*before, tokens(x)), 1) + position), grid

    def resized(self, position: Tensor, grid: tuple[int, int], old: tuple[int, int]) -> Tensor:
        """`position` of grid `old` for another: [1, P + N, C] -> [1, P + N', C]."""
        if same_grid(grid, old):
            return position
        return torch.cat((position[:, : self.first], resize_grid(position[:, self.first :], grid, old)), 1)


class Block(nn.Module):
    """Attention and perceptron, each after a norm and added to its input: [B, N, C] -> same.

    Source: arXiv:2010.11929, equations 2 and 3.
    """

    def __init__(self, config: Config, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.attention = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.mlp = Mlp(config.width, 4 * config.width, config.gelu)
        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        y: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return y


class ViT(Backbone):
    """[B, channels, H, W] -> one map [B, C, h, w] at the patch's stride."""

    first_conv = "stem.patches.weight"
    embedding_only = ("norm.",)  # unless the map is normalised
    no_weight_decay = ("class_token", "distill_token", "position")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stem = Embedding(config)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        if config.embedding or config.map_norm:
            self.norm = nn.LayerNorm(config.width, config.eps)
        if config.map_norm:
            self.embedding_only = ()  # type: ignore[misc,assignment]
        self.levels = (Level(config.patch, config.width),)
        self.num_classifiers = 2 if config.distilled else 1
        self.width = config.width * self.num_classifiers
        init_linear(self)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x, grid = self.stem(images)
        for block in self.blocks:
            x = self.run_block(block, x)
        patches = x[:, self.stem.before :]
        on_level(grid_map(self.norm(patches) if self.config.map_norm else patches, grid))
        return x

    def pool(self, x: Tensor) -> Tensor:
        if self.config.pool == "mean":
            return self.norm(x[:, self.stem.before :].mean(1))
        return self.norm(x[:, : self.num_classifiers]).flatten(1)

    def rollout(self, weights: Sequence[Tensor], size: tuple[int, int], residual: float = 0.5) -> Tensor:
        before, pooled = self.stem.before, self.config.embedding and self.config.pool == "token"
        read = slice(self.num_classifiers) if pooled else slice(before, None)  # the tokens that the head reads
        share = torch.zeros_like(weights[-1][:, 0])
        share[:, read] = 1 / share[0, read].numel()
        for attention in reversed(weights):
            share = residual * share + (1 - residual) * (share[:, None] @ attention)[:, 0]
        rows = -(-size[0] // self.config.patch)
        return share[:, before:].unflatten(1, (rows, -1))

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        if name == "stem.position" and tensor.ndim == 3 and tensor.shape[2] == shape[2]:
            grid, count = self.stem.grid, tensor.shape[1] - self.stem.first
            for aspect in (1.0, grid[0] / grid[1]):  # square, or of the shape of the input
                old = (round((count * aspect) ** 0.5), round((count / aspect) ** 0.5))
                if old[0] * old[1] == count:
                    how = f"positions of a grid of {old[0]} x {old[1]} -> {grid[0]} x {grid[1]}"
                    return self.stem.resized(tensor, grid, old), how
        return super().adapt(name, tensor, shape)

    def layers(self) -> list[nn.Module]:
        return [self.stem, *self.blocks, *([self.norm] if hasattr(self, "norm") else [])]


MODEL = ViT

#                       width depth heads
_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_PATCHES = {"tiny": (16,), "small": (16, 32), "base": (16, 32), "large": (16, 32), "huge": (14,)}

VARIANTS = {
    f"vit_{size}_{patch}": Config(patch, *_SIZES[size]) for size, patches in _PATCHES.items() for patch in patches
}
VARIANTS |= {
    f"{name}_384": replace(VARIANTS[name], image_size=(384, 384))
    for name in (
        "vit_tiny_16",
        "vit_small_16",
        "vit_small_32",
        "vit_base_16",
        "vit_base_32",
        "vit_large_16",
        "vit_large_32",
    )
}
VARIANTS |= {f"deit_{size}_16": Config(16, *_SIZES[size]) for size in ("tiny", "small", "base")}
VARIANTS |= {
    f"deit_{size}_16_distilled": Config(16, *_SIZES[size], distilled=True) for size in ("tiny", "small", "base")
}
VARIANTS |= {
    f"{name}_384": replace(VARIANTS[name], image_size=(384, 384)) for name in ("deit_base_16", "deit_base_16_distilled")
}

ALIASES = {
    f"vit_{name[0]}_{patch}": f"vit_{name}_{patch}" for name in ("base", "large", "huge") for patch in _PATCHES[name]
}
for _name, _config in VARIANTS.items():  # timm's: vit_base_patch16_224, deit_base_distilled_patch16_224
    _kind, _size = _name.split("_")[:2]
    _distilled = "_distilled" if _config.distilled else ""
    ALIASES[f"{_kind}_{_size}{_distilled}_patch{_config.patch}_{_config.image_size[0]}"] = _name

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "vit_small_16": (81.4, "timm"),
    "vit_base_16": (81.072, "torchvision"),
    "vit_base_32": (75.912, "torchvision"),
    "vit_large_16": (79.662, "torchvision"),
    "vit_large_32": (76.972, "torchvision"),
    "deit_tiny_16": (72.2, "authors' README"),
    "deit_small_16": (79.9, "authors' README"),
    "deit_base_16": (81.8, "authors' README"),
    "deit_tiny_16_distilled": (74.5, "authors' README"),
    "deit_small_16_distilled": (81.2, "authors' README"),
    "deit_base_16_distilled": (83.4, "authors' README"),
    "deit_base_16_384": (82.9, "authors' README"),
    "deit_base_16_distilled_384": (85.2, "authors' README"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "vit_tiny_16.augreg_in21k_ft_in1k": published(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 75.452, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_16.augreg_in1k": published(
        "vit_small_patch16_224.augreg_in1k", "apache-2.0", 78.842, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_16.augreg_in21k_ft_in1k": published(
        "vit_small_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 81.414, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_32.augreg_in21k_ft_in1k": published(
        "vit_small_patch32_224.augreg_in21k_ft_in1k", "apache-2.0", 75.996, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16.augreg2_in21k_ft_in1k": published(
        "vit_base_patch16_224.augreg2_in21k_ft_in1k", "apache-2.0", 85.11, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16.augreg_in1k": published(
        "vit_base_patch16_224.augreg_in1k", "apache-2.0", 79.142, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16.augreg_in21k_ft_in1k": published(
        "vit_base_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 84.532, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16.orig_in21k_ft_in1k": published(
        "vit_base_patch16_224.orig_in21k_ft_in1k", "apache-2.0", 81.786, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16.sam_in1k": published(
        "vit_base_patch16_224.sam_in1k", "apache-2.0", 80.242, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_32.augreg_in1k": published(
        "vit_base_patch32_224.augreg_in1k", "apache-2.0", 74.906, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_32.augreg_in21k_ft_in1k": published(
        "vit_base_patch32_224.augreg_in21k_ft_in1k", "apache-2.0", 80.736, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_32.sam_in1k": published(
        "vit_base_patch32_224.sam_in1k", "apache-2.0", 73.706, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_large_16.augreg_in21k_ft_in1k": published(
        "vit_large_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 85.85, 224, 0.9, "bicubic", mean=HALF, std=HALF
    ),
    "vit_tiny_16_384.augreg_in21k_ft_in1k": published(
        "vit_tiny_patch16_384.augreg_in21k_ft_in1k", "apache-2.0", 78.446, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_16_384.augreg_in1k": published(
        "vit_small_patch16_384.augreg_in1k", "apache-2.0", 81.134, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_16_384.augreg_in21k_ft_in1k": published(
        "vit_small_patch16_384.augreg_in21k_ft_in1k", "apache-2.0", 83.804, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_small_32_384.augreg_in21k_ft_in1k": published(
        "vit_small_patch32_384.augreg_in21k_ft_in1k", "apache-2.0", 80.482, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16_384.augreg_in1k": published(
        "vit_base_patch16_384.augreg_in1k", "apache-2.0", 81.096, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16_384.augreg_in21k_ft_in1k": published(
        "vit_base_patch16_384.augreg_in21k_ft_in1k", "apache-2.0", 86.006, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_16_384.orig_in21k_ft_in1k": published(
        "vit_base_patch16_384.orig_in21k_ft_in1k", "apache-2.0", 84.208, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_32_384.augreg_in1k": published(
        "vit_base_patch32_384.augreg_in1k", "apache-2.0", 78.754, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_base_32_384.augreg_in21k_ft_in1k": published(
        "vit_base_patch32_384.augreg_in21k_ft_in1k", "apache-2.0", 83.352, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_large_16_384.augreg_in21k_ft_in1k": published(
        "vit_large_patch16_384.augreg_in21k_ft_in1k", "apache-2.0", 87.094, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "vit_large_32_384.orig_in21k_ft_in1k": published(
        "vit_large_patch32_384.orig_in21k_ft_in1k", "apache-2.0", 81.506, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "deit_tiny_16.fb_in1k": published("deit_tiny_patch16_224.fb_in1k", "apache-2.0", 72.196, 224, 0.9, "bicubic"),
    "deit_small_16.fb_in1k": published("deit_small_patch16_224.fb_in1k", "apache-2.0", 79.862, 224, 0.9, "bicubic"),
    "deit_base_16.fb_in1k": published("deit_base_patch16_224.fb_in1k", "apache-2.0", 81.98, 224, 0.9, "bicubic"),
    "deit_tiny_16_distilled.fb_in1k": published(
        "deit_tiny_distilled_patch16_224.fb_in1k", "apache-2.0", 74.54, 224, 0.9, "bicubic"
    ),
    "deit_small_16_distilled.fb_in1k": published(
        "deit_small_distilled_patch16_224.fb_in1k", "apache-2.0", 81.216, 224, 0.9, "bicubic"
    ),
    "deit_base_16_distilled.fb_in1k": published(
        "deit_base_distilled_patch16_224.fb_in1k", "apache-2.0", 83.388, 224, 0.9, "bicubic"
    ),
    "deit_base_16_384.fb_in1k": published("deit_base_patch16_384.fb_in1k", "apache-2.0", 83.116, 384, 1.0, "bicubic"),
    "deit_base_16_distilled_384.fb_in1k": published(
        "deit_base_distilled_patch16_384.fb_in1k", "apache-2.0", 85.428, 384, 1.0, "bicubic"
    ),
}


def _heads(config: Config) -> weights.Rules:
    if not config.distilled:
        return ()
    return (Rename(r"^head\.(weight|bias)$", r"head.0.\1"), Rename(r"^head_dist\.", "head.1."))


def _timm(config: Config) -> weights.Rules:
    """timm's names, which are those of DeiT's authors too."""
    return (
        Rename(r"^cls_token$", "stem.class_token"),
        Rename(r"^dist_token$", "stem.distill_token"),
        Rename(r"^pos_embed$", "stem.position"),
        Rename(r"^patch_embed\.proj\.", "stem.patches."),
        Rename(r"\.attn\.qkv\.", ".attention.qkv."),
        Rename(r"\.attn\.proj\.", ".attention.project."),
        Rename(r"\.mlp\.fc1\.", ".mlp.expand."),
        Rename(r"\.mlp\.fc2\.", ".mlp.project."),
        Rename(r"^(?:fc_norm|last_norm)\.", "norm."),
        *_heads(config),
    )


_torchvision = (
    Rename(r"^class_token$", "stem.class_token"),
    Rename(r"^encoder\.pos_embedding$", "stem.position"),
    Rename(r"^conv_proj\.", "stem.patches."),
    Rename(r"^encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1"),
    Rename(r"\.ln_(\d)\.", r".norm\1."),
    Rename(r"\.self_attention\.in_proj_", ".attention.qkv."),
    Rename(r"\.self_attention\.out_proj\.", ".attention.project."),
    Rename(r"\.mlp\.(0|linear_1)\.", ".mlp.expand."),
    Rename(r"\.mlp\.(3|linear_2)\.", ".mlp.project."),
    Rename(r"^encoder\.ln\.", "norm."),
    Rename(r"^heads\.head\.", "head."),
)


def _transformers(config: Config) -> weights.Rules:
    return (
        Rename(r"^(vit|deit)\.", ""),
        Drop(r"^pooler\.", "the pooler is of the bare model, which has no classifier"),
        Rename(r"^embeddings\.cls_token$", "stem.class_token"),
        Rename(r"^embeddings\.distillation_token$", "stem.distill_token"),
        Rename(r"^embeddings\.position_embeddings$", "stem.position"),
        Rename(r"^embeddings\.patch_embeddings\.projection\.", "stem.patches."),
        Rename(r"^encoder\.layer\.(\d+)", r"blocks.\1"),
        Join(r"\.attention\.attention\.(query|key|value)\.", ("query", "key", "value"), "qkv"),
        Rename(r"\.attention\.attention\.qkv\.", ".attention.qkv."),
        Rename(r"\.attention\.output\.dense\.", ".attention.project."),
        Rename(r"\.intermediate\.dense\.", ".mlp.expand."),
        Rename(r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.project."),
        Rename(r"\.mlp\.fc1\.", ".mlp.expand."),  # ViTPose's
        Rename(r"\.mlp\.fc2\.", ".mlp.project."),
        Rename(r"\.layernorm_before\.", ".norm1."),
        Rename(r"\.layernorm_after\.", ".norm2."),
        Rename(r"^layernorm\.", "norm."),
        Rename(r"^(cls_)?classifier\.", "head.0." if config.distilled else "head."),
        Rename(r"^distillation_classifier\.", "head.1."),
    )


def _paddle(config: Config) -> weights.Rules:
    return (
        # Names: PaddleClas 2.5, ppcls/arch/backbone/model_zoo/(distilled_)vision_transformer.py.
        transposed(r"\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight$|^head(_dist)?\.weight$"),
        *_timm(config),
    )


def _with_first_row(position: Tensor) -> Tensor:
    """[1, 1 + N, C] from that, or from [1, N, C]: N is even for inputs of 4:3."""
    return position if position.shape[1] % 2 else torch.cat((torch.zeros_like(position[:, :1]), position), 1)


def _mmpose(config: Config) -> weights.Rules:
    # Names: MMPretrain 1.2, mmpretrain/models/backbones/vision_transformer.py, which MMPose 1 builds on.
    return (
        Fix(r"^pos_embed$", _with_first_row, "the position of a class token, 0 if the file has none"),
        Rename(r"^patch_embed\.projection\.", "stem.patches."),
        Rename(r"^layers\.(\d+)\.", r"blocks.\1."),
        Rename(r"^(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
        Rename(r"^(blocks\.\d+)\.ffn\.layers\.0\.0\.", r"\1.mlp.expand."),
        Rename(r"^(blocks\.\d+)\.ffn\.layers\.1\.", r"\1.mlp.project."),
        Rename(r"^ln1\.", "norm."),
        *_timm(config),
    )


RULES = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "official": _timm,
    "paddle": _paddle,
    "mmpose": _mmpose,
}


def _of_patches(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Models without a class token are those of ViTPose: with the sizes that 16-pixel patches of 4:3 inputs give."""
    names = {name.rpartition(".")[2]: name for name in state}
    position = next((state[names[name]] for name in ("pos_embed", "position_embeddings") if name in names), None)
    if position is None or names.keys() & {"cls_token", "class_token"}:
        return {}
    count = position.shape[1] - position.shape[1] % 2  # without the position of the class token, if it is there
    rows = round((count * 4 / 3) ** 0.5)
    size = {"image_size": (16 * rows, 16 * count // rows)} if rows * (count // rows) == count else {}
    others = {384: {"heads": 12}, 1280: {"patch": 16}}.get(position.shape[2], {})  # ViTPose-S and ViTPose-H
    return {"class_token": False, "pool": "mean", "map_norm": True, "patch_padding": 2, **size, **others}


PRESETS = {
    "transformers": lambda config, state: {"eps": 1e-12, **_of_patches(config, state)},
    "official": _of_patches,
    "mmpose": _of_patches,
}
