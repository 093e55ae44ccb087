"""HRNet: parallel branches of several resolutions that exchange their features.

Source: Deep High-Resolution Representation Learning for Visual Recognition, arXiv:1908.07919.

Shapes: B batch, H x W the image, C the highest branch's width; branch i is [B, 2^i C, H / 2^(i + 2), W / 2^(i + 2)].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.backbones.residual import Basic, Bottleneck
from vertebra.errors import VertebraError, one_of
from vertebra.nn.conv import ConvNorm
from vertebra.nn.drop import drop_path_rates
from vertebra.structures import Level
from vertebra.weights import Drop, Rename
from vertebra.weights.card import published
from vertebra.weights.paddle import STATISTICS, transposed

VIEWS = ("branches", "v1", "v2", "increased")
UPSAMPLES = ("nearest", "bilinear", "bilinear_twice")
INCREASED = (32, 64, 128, 256)  # inside the blocks before the classifier; four times that outside


@dataclass(frozen=True)
class Config(BackboneConfig):
    width: int  # C
    first: tuple[int, int] = (4, 64)  # blocks of the first stage, and channels inside them
    modules: tuple[int, int, int] = (1, 4, 3)  # of stages 2, 3, 4
    blocks: int = 4  # per branch and module
    view: str = "branches"
    """The pyramid: the four `branches`; only the highest (`v1`); all resized to it and concatenated (`v2`); or the
    branches `increased` to 128, 256, 512 and 1024 channels, as they go into classification."""
    upsample: str = "nearest"
    """Of the exchange: `nearest`; `bilinear`, as in the authors' segmentation models; or `bilinear_twice`, by the ratio
    of the strides and then to the size of the branch, as in MMSegmentation. The two differ where a side of the input is
    no multiple of 32."""
    align_corners: bool = False  # of `bilinear` and `bilinear_twice`
    bias: bool = True  # of the convolutions between the increased branches and the classifier; PaddleClas has none

    def __post_init__(self) -> None:
        one_of("view", self.view, VIEWS)
        one_of("upsample", self.upsample, UPSAMPLES)
        if self.view == "v1" and self.embedding:
            raise VertebraError("the v1 view has only the highest branch, and classification needs all four.")


def resize(x: Tensor, size: Sequence[int], mode: str, align_corners: bool) -> Tensor:
    """`x` at another (height, width); `mode` and `align_corners` as the config names them."""
    corners = align_corners if mode == "bilinear" else None
    return nn.functional.interpolate(x, tuple(size), mode=mode, align_corners=corners)


class Exchange(nn.Module):
    """Every branch receives the sum of all, each brought to its resolution and width: branches -> branches.

    Source: arXiv:1908.07919, section 3.2 and figure 3.
    """

    def __init__(self, config: Config, widths: Sequence[int], outputs: int) -> None:
        """`outputs` is the number of branches returned, highest resolution first."""
        super().__init__()
        self.upsample, self.align_corners = config.upsample, config.align_corners
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths))) for target in range(outputs)
        )

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        results = []
        for i, paths in enumerate(self.paths):
            total: Tensor | None = None
            for j, path in enumerate(paths.children()):
                x = branches[j]
                if j < i:  # down: the last convolution adds the sum so far
                    *before, last = path.children()
                    for step in before:
                        x = step(x)
                    total = last(x, total)
                elif total is None:
                    total = x
                elif j > i:
                    x = self.upsampled(path(x), 2 ** (j - i), branches[i].shape[2:])
                    # A branch itself is still needed by the others; a resized one is not.
                    total = x.add_(total) if total is branches[i] else total.add_(x)
                else:
                    total = total.add_(x)
            assert total is not None
            results.append(total.relu_() if total is not branches[i] else total.relu())
        return results

    def upsampled(self, x: Tensor, ratio: int, size: Sequence[int]) -> Tensor:
        """`x` at another (height, width), that of the branch whose stride is `ratio` times smaller."""
        mode, align_corners = self.upsample, self.align_corners
        if mode == "bilinear_twice":
            mode, whole = "bilinear", [ratio * side for side in x.shape[2:]]
            if whole != list(size):
                x = resize(x, whole, mode, align_corners)
        return resize(x, size, mode, align_corners)


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNorm(widths[source], widths[target], activation="none")
    steps = target - source
    return nn.Sequential(
        *(ConvNorm(widths[source], widths[source], 3, 2) for _ in range(steps - 1)),
        ConvNorm(widths[source], widths[target], 3, 2, activation="none"),
    )


class Module(nn.Module):
    """Residual blocks on each branch, then an exchange: branches -> branches."""

    def __init__(self, config: Config, widths: Sequence[int], rates: Sequence[float], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Basic(width, width, 1, rate) for rate in rates)) for width in widths
        )
        self.exchange = Exchange(config, widths, outputs)

    def forward(self, *branches: Tensor) -> list[Tensor]:
        deeper = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        exchanged: list[Tensor] = self.exchange(deeper)
        return exchanged


class HRNet(Backbone):
    """[B, channels, H, W] -> the maps of the config's view."""

    first_conv = "stem.0.conv.weight"
    embedding_only = ("increase.", "down.", "final.")
    finest_only = {"view": "v1"}  # noqa: RUF012

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        depth, inside = config.first
        self.stem = nn.Sequential(ConvNorm(config.channels, 64, 3, 2), ConvNorm(64, 64, 3, 2))
        rates = iter(drop_path_rates(config.drop_path, depth + config.blocks * sum(config.modules)))
        self.stage1 = nn.Sequential(
            *(Bottleneck(64 if i == 0 else 4 * inside, inside, 1, next(rates)) for i in range(depth))
        )
        widths = [4 * inside]
        self.transitions, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, modules in enumerate(config.modules):
            new = [config.width * 2**k for k in range(i + 2)]
            self.transitions.append(nn.ModuleList(_transition(widths, new, k) for k in range(len(new))))
            widths = new
            self.stages.append(nn.ModuleList(self._stage(config, widths, modules, rates)))
        if config.embedding or config.view == "increased":
            self.increase = nn.ModuleList(Bottleneck(w, out) for w, out in zip(widths, INCREASED, strict=True))
        self.width = 2048
        if config.embedding:
            outs = [4 * width for width in INCREASED]
            self.down = nn.ModuleList(ConvNorm(outs[i], outs[i + 1], 3, 2, bias=config.bias) for i in range(3))
            self.final = ConvNorm(outs[-1], self.width, bias=config.bias)
            for layer in (*self.down, self.final):
                if config.bias:  # before a norm: zeros make partially loaded weights without biases exact
                    nn.init.zeros_(layer.conv.bias)
        channels = {"v1": widths[:1], "v2": [sum(widths)], "increased": [4 * width for width in INCREASED]}
        self.levels = tuple(Level(4 * 2**i, c) for i, c in enumerate(channels.get(config.view, widths)))

    def _stage(self, config: Config, widths: list[int], count: int, rates: Iterator[float]) -> Iterator[Module]:
        for i in range(count):
            last = len(widths) == 4 and i == count - 1
            outputs = 1 if last and config.view == "v1" else len(widths)
            yield Module(config, widths, [next(rates) for _ in range(config.blocks)], outputs)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Any:
        x = self.stem(images)
        for block in self.stage1:
            x = self.run_block(block, x)
        branches = [x]
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            # A new branch starts from the lowest one.
            branches = [step(branches[min(i, len(branches) - 1)]) for i, step in enumerate(transition.children())]
            for module in stage.children():
                branches = self.run_block(module, *branches)
        view = self.config.view
        if view == "increased":
            branches = [block(branch) for block, branch in zip(self.increase, branches, strict=True)]
        if view == "v2":
            # Bilinear in every source, whatever the exchange uses.
            size, how = branches[0].shape[2:], ("bilinear", self.config.align_corners)
            on_level(torch.cat([branches[0], *(resize(branch, size, *how) for branch in branches[1:])], 1))
        else:
            for branch in branches:
                on_level(branch)
        return branches

    def pool(self, x: Any) -> Tensor:
        if self.config.view != "increased":
            x = [block(branch) for block, branch in zip(self.increase, x, strict=True)]
        y = x[0]
        for down, branch in zip(self.down, x[1:], strict=True):
            y = branch + down(y)
        final: Tensor = self.final(y)
        return final.mean((2, 3))

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.stem, *self.stage1]
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            parts += [transition, *stage.children()]
        return parts + [getattr(self, name) for name in ("increase", "down", "final") if hasattr(self, name)]

    def stage_layers(self) -> list[list[nn.Module]]:
        first = [self.stem, *self.stage1]
        rest = super().stage_layers()
        return [first, rest[0][len(first) :], *rest[1:]]


def _transition(old: Sequence[int], new: Sequence[int], i: int) -> nn.Module:
    """From the branches of one stage to branch `i` of the next."""
    if i < len(old):
        return nn.Identity() if old[i] == new[i] else ConvNorm(old[i], new[i], 3)
    return ConvNorm(old[-1], new[i], 3, 2)


MODEL = HRNet

VARIANTS = {
    "hrnet_w18_small_v1": Config(16, (1, 32), (1, 1, 1), 2),
    "hrnet_w18_small_v2": Config(18, (2, 64), (1, 3, 2), 2),
    "hrnet_w18": Config(18),
    "hrnet_w30": Config(30),
    "hrnet_w32": Config(32),
    "hrnet_w40": Config(40),
    "hrnet_w44": Config(44),
    "hrnet_w48": Config(48),
    "hrnet_w64": Config(64),
}

ALIASES = {"hrnet_w18_small": "hrnet_w18_small_v1"}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "hrnet_w18_small_v1": (72.3, "authors' README"),
    "hrnet_w18_small_v2": (75.1, "authors' README"),
    "hrnet_w18": (76.8, "authors' README"),
    "hrnet_w30": (78.2, "authors' README"),
    "hrnet_w32": (78.5, "authors' README"),
    "hrnet_w40": (78.9, "authors' README"),
    "hrnet_w44": (78.9, "authors' README"),
    "hrnet_w48": (79.3, "authors' README"),
    "hrnet_w64": (79.5, "authors' README"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "hrnet_w18_small_v1.gluon_in1k": published(
        "hrnet_w18_small.gluon_in1k", "apache-2.0", 73.932, 224, 0.875, "bicubic"
    ),
    "hrnet_w18_small_v1.ms_in1k": published("hrnet_w18_small.ms_in1k", "mit", 72.334, 224, 0.875, "bilinear"),
    "hrnet_w18_small_v2.gluon_in1k": published(
        "hrnet_w18_small_v2.gluon_in1k", "apache-2.0", 78.184, 224, 0.875, "bicubic"
    ),
    "hrnet_w18_small_v2.ms_in1k": published("hrnet_w18_small_v2.ms_in1k", "mit", 75.098, 224, 0.875, "bilinear"),
    "hrnet_w18.ms_aug_in1k": published("hrnet_w18.ms_aug_in1k", "mit", 78.116, 224, 0.95, "bilinear"),
    "hrnet_w18.ms_in1k": published("hrnet_w18.ms_in1k", "mit", 76.76, 224, 0.875, "bilinear"),
    "hrnet_w30.ms_in1k": published("hrnet_w30.ms_in1k", "mit", 78.214, 224, 0.875, "bilinear"),
    "hrnet_w32.ms_in1k": published("hrnet_w32.ms_in1k", "mit", 78.456, 224, 0.875, "bilinear"),
    "hrnet_w40.ms_in1k": published("hrnet_w40.ms_in1k", "mit", 78.924, 224, 0.875, "bilinear"),
    "hrnet_w44.ms_in1k": published("hrnet_w44.ms_in1k", "mit", 78.882, 224, 0.875, "bilinear"),
    "hrnet_w48.ms_in1k": published("hrnet_w48.ms_in1k", "mit", 79.324, 224, 0.875, "bilinear"),
    "hrnet_w64.ms_in1k": published("hrnet_w64.ms_in1k", "mit", 79.458, 224, 0.875, "bilinear"),
}

_PARTS = ("conv", "norm")

_names = (
    Rename(r"^(backbone|model)\.", ""),
    Rename(r"^conv([12])\.", lambda m: f"stem.{int(m[1]) - 1}.conv."),
    Rename(r"^bn([12])\.", lambda m: f"stem.{int(m[1]) - 1}.norm."),
    Rename(r"^layer1\.", "stage1."),
    Rename(
        r"^transition(\d)\.(\d)\.(?:0\.)?([01])\.", lambda m: f"transitions.{int(m[1]) - 1}.{m[2]}.{_PARTS[int(m[3])]}."
    ),
    Rename(r"^stage([234])\.", lambda m: f"stages.{int(m[1]) - 2}."),
    Rename(
        r"\.fuse_layers\.(\d)\.(\d)\.(\d)\.([01])\.",
        lambda m: f".exchange.paths.{m[1]}.{m[2]}.{m[3]}.{_PARTS[int(m[4])]}.",
    ),
    Rename(r"\.fuse_layers\.(\d)\.(\d)\.([01])\.", lambda m: f".exchange.paths.{m[1]}.{m[2]}.{_PARTS[int(m[3])]}."),
    Rename(r"^incre_modules\.(\d)\.0\.", r"increase.\1."),
    Rename(r"^downsamp_modules\.(\d)\.([01])\.", lambda m: f"down.{m[1]}.{_PARTS[int(m[2])]}."),
    Rename(r"^final_layer\.([01])\.", lambda m: f"final.{_PARTS[int(m[1])]}."),
    Rename(r"^((?:stage|increase).*)\.conv(\d)\.", r"\1.conv\2.conv."),
    Rename(r"^((?:stage|increase).*)\.bn(\d)\.", r"\1.conv\2.norm."),
    Rename(r"\.downsample\.0\.", ".shortcut.1.conv."),
    Rename(r"\.downsample\.1\.", ".shortcut.1.norm."),
    Rename(r"^classifier\.", "head."),
)


def _residual_function(match: re.Match[str]) -> str:
    """PaddleClas numbers the convolutions of an exchange through all its paths, target by target."""
    stage, module, number = int(match[1]), match[2], int(match[3])
    paths = [
        f"{target}.{source}" + (f".{step}" if source < target else "")
        for target in range(stage)
        for source in range(stage)
        for step in range(target - source if source < target else int(source > target))
    ]
    return f"stages.{stage - 2}.{module}.exchange.paths.{paths[number]}." if number < len(paths) else match[0]


_paddle = (
    # Names: PaddleClas 2.5, ppcls/arch/backbone/legendary_models/hrnet.py.
    Rename(r"^conv_layer1_([12])\.", lambda m: f"stem.{int(m[1]) - 1}."),
    Rename(r"^layer1\.", "stage1."),
    Rename(r"^conv_tr1_([12])\.", lambda m: f"transitions.0.{int(m[1]) - 1}."),
    Rename(r"^conv_tr([23])\.", lambda m: f"transitions.{int(m[1]) - 1}.{m[1]}."),
    Rename(r"^st([234])\.stage_func_list\.(\d)\.fuse_func\.residual_func_list\.(\d+)\.", _residual_function),
    Rename(
        r"^st([234])\.stage_func_list\.(\d)\.basic_block_list\.", lambda m: f"stages.{int(m[1]) - 2}.{m[2]}.branches."
    ),
    Rename(r"\.conv_down\.", ".shortcut.1."),
    Rename(r"^last_cls\.func_list\.", "increase."),
    Rename(r"^cls_head_conv_list\.", "down."),
    Rename(r"^conv_last\.", "final."),
    Rename(r"\.bn\.", ".norm."),
    *STATISTICS,
    Rename(r"^fc\.", "head."),
    transposed(r"^head\.weight$"),
)

_official = (
    Drop(
        r"^loss\.|^(model\.)?(last_layer|aux_head|cls_head|conv3x3_ocr|ocr_gather_head|ocr_distri_head)\.",
        "belongs to the segmentation head",
    ),
    Drop(r"^(model\.)?final_layer\.(weight|bias)$", "belongs to the pose head"),
    *_names,
)

RULES = {
    "official": _official,
    "timm": _names,
    "official/segmentation": _official,
    "official/ocr": _official,
    "mmdet": _names,
    "mmseg": _names,
    "mmpose": _names,
    "paddle": _paddle,
}

PRESETS = {
    "mmseg": {"upsample": "bilinear_twice"},
    "official/segmentation": {"upsample": "bilinear"},
    "official/ocr": {"upsample": "bilinear", "align_corners": True},
}

# The names of the backbone are the same in all of these, but not the exchange: the head decides.
MARKS = {
    "mmseg": r"^decode_head\.",
    "official/ocr": r"^(model\.)?ocr_distri_head\.",
    "official/segmentation": r"^(model\.)?last_layer\.",
}
