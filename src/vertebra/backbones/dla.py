"""Deep layer aggregation, with plain and with Res2Net blocks.

Sources: Deep Layer Aggregation, arXiv:1707.06484; the Res2Net blocks are arXiv:1904.01169.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.nn.conv import ConvNorm
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.res2 import Res2Conv
from vertebra.structures import Level
from vertebra.weights import Drop, Fix, Rename
from vertebra.weights.card import published


@dataclass(frozen=True)
class Config(BackboneConfig):
    depths: tuple[int, int, int, int, int, int]  # convolutions of levels 0 and 1, heights of the trees of 2 to 5
    widths: tuple[int, int, int, int, int, int]  # channels per level
    bottleneck: bool = True  # bottleneck blocks (they halve the channels inside), else basic ones
    group_width: int = 64  # channels per 64 of the block's inside, per group
    groups: int = 1  # of the 3x3 convolution: cardinality
    scale: int = 1  # groups of a Res2Net block; 1 is an ordinary convolution
    residual_root: bool = False  # whether a root adds its first child to its output


class Block(nn.Module):
    """Basic or bottleneck, its shortcut given by the tree: x [B, C, H, W], shortcut [B, C', H', W'] -> [B, C', H', W'].

    Source: arXiv:1707.06484, section 4.1, as in the authors' code.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, stride: int, drop_path: float) -> None:
        super().__init__()
        if config.bottleneck:
            inside = outputs * config.group_width // 64 * config.groups // 2
            self.conv1 = ConvNorm(inputs, inside * config.scale)
            self.conv2: nn.Module = (
                ConvNorm(inside, inside, 3, stride, config.groups)
                if config.scale == 1
                else Res2Conv(inside, config.scale, stride, first=stride > 1, groups=config.groups)
            )
            self.conv3 = ConvNorm(inside * config.scale, outputs, activation="none" if drop_path else "relu")
        else:
            self.conv1, self.conv2 = ConvNorm(inputs, outputs, 3, stride), nn.Identity()
            self.conv3 = ConvNorm(outputs, outputs, 3, activation="none" if drop_path else "relu")
        self.conv3.keeps_residual = True  # trees hand one map to several
        self.drop = DropPath(drop_path) if drop_path else None

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.drop is None:
            joined: Tensor = self.conv3(y, shortcut)
            return joined
        y = self.drop(self.conv3(y))
        return (y + shortcut).relu_()


class Tree(nn.Module):
    """Aggregates blocks hierarchically: [B, C, H, W] -> [B, C', H / stride, W / stride].

    A tree of height 1 is two blocks and a root, a 1x1 convolution over the outputs of both and the tree's children; a
    higher one is two trees of one height less, the second of which gets the first as a child.

    Source: arXiv:1707.06484, section 3.2 and figure 2f.
    """

    def __init__(
        self,
        config: Config,
        height: int,
        inputs: int,
        outputs: int,
        stride: int,
        rates: Iterator[float],
        keep_input: bool = False,
        children: int = 0,
    ) -> None:
        """`keep_input` makes the pooled input a child; `children` is the channels of those passed to `forward`."""
        super().__init__()
        self.keep_input = keep_input
        children += inputs if keep_input else 0
        # Rounding up, as the strided convolution beside it does.
        self.down = nn.MaxPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        if height == 1:
            self.tree1: nn.Module = Block(config, inputs, outputs, stride, next(rates))
            self.tree2: nn.Module = Block(config, outputs, outputs, 1, next(rates))
            self.project = ConvNorm(inputs, outputs, activation="none") if inputs != outputs else nn.Identity()
            self.root: ConvNorm | None = ConvNorm(2 * outputs + children, outputs)
            self.residual_root = config.residual_root
        else:
            self.tree1 = Tree(config, height - 1, inputs, outputs, stride, rates)
            self.tree2 = Tree(config, height - 1, outputs, outputs, 1, rates, children=children + outputs)
            self.root = None

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        bottom = self.down(x) if self.keep_input or self.root is not None else x
        if self.keep_input:
            children = (*children, bottom)
        if self.root is None:
            first = self.tree1(x)
            second: Tensor = self.tree2(first, (*children, first))
            return second
        first = self.tree1(x, self.project(bottom))
        second = self.tree2(first, first)
        joined: Tensor = self.root(torch.cat((second, first, *children), 1), second if self.residual_root else None)
        return joined


class DLA(Backbone):
    """[B, channels, H, W] -> maps at strides 2, 4, 8, 16, 32."""

    first_conv = "stem.conv.weight"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        widths = config.widths
        self.stem = ConvNorm(config.channels, widths[0], 7)
        heights = config.depths[2:]
        rates = iter(drop_path_rates(config.drop_path, sum(2**height for height in heights)))
        self.stages = nn.ModuleList(
            [_convs(widths[0], widths[0], 1, config.depths[0]), _convs(widths[0], widths[1], 2, config.depths[1])]
        )
        for i, height in enumerate(heights, 2):
            self.stages.append(Tree(config, height, widths[i - 1], widths[i], 2, rates, keep_input=i > 2))
        self.levels = tuple(Level(2**i, width) for i, width in enumerate(widths) if i)
        self.width = widths[-1]

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.stages[0](self.stem(images))
        for stage in self.stages.children():
            if stage is not self.stages[0]:
                x = self.run_block(stage, x)
                on_level(x)
        return x

    def layers(self) -> list[nn.Module]:
        return [self.stem, *self.stages.children()]


def _convs(inputs: int, outputs: int, stride: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        *(ConvNorm(inputs if i == 0 else outputs, outputs, 3, stride if i == 0 else 1) for i in range(count))
    )


MODEL = DLA

_WIDE = (16, 32, 128, 256, 512, 1024)

VARIANTS = {
    "dla34": Config((1, 1, 1, 2, 2, 1), (16, 32, 64, 128, 256, 512), bottleneck=False),
    "dla60": Config((1, 1, 1, 2, 3, 1), _WIDE),
    "dla102": Config((1, 1, 1, 3, 4, 1), _WIDE, residual_root=True),
    "res2net_dla60": Config((1, 1, 1, 2, 3, 1), _WIDE, group_width=28, scale=4),
    "res2next_dla60": Config((1, 1, 1, 2, 3, 1), _WIDE, group_width=4, groups=8, scale=4),
}

ALIASES = {"dla60_res2net": "res2net_dla60", "dla60_res2next": "res2next_dla60"}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "res2net_dla60": (78.47, "Res2Net's README"),
    "res2next_dla60": (78.45, "Res2Net's README"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
# For the Res2Net blocks timm names no licence; that of the authors' repository, Res2Net-PretrainedModels
# (commit 1d51000f), is CC BY-NC-SA 4.0.
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "dla34.in1k": published("dla34.in1k", "bsd-3-clause", 74.632, 224, 0.875, "bilinear"),
    "dla60.in1k": published("dla60.in1k", "bsd-3-clause", 77.046, 224, 0.875, "bilinear"),
    "dla102.in1k": published("dla102.in1k", "bsd-3-clause", 78.018, 224, 0.875, "bilinear"),
    "res2net_dla60.in1k": published("dla60_res2net.in1k", "cc-by-nc-sa-4.0", 78.48, 224, 0.875, "bilinear"),
    "res2next_dla60.in1k": published("dla60_res2next.in1k", "cc-by-nc-sa-4.0", 78.488, 224, 0.875, "bilinear"),
}

_UNUSED = "the original makes this projection and never uses it"


def _rules(config: Config) -> weights.Rules:
    # A tree of height 2 and more has a projection in the authors' code only, and its output goes nowhere.
    inner = [
        rf"^level{i}(\.tree1){{0,{height - 2}}}\.project\."
        for i, height in enumerate(config.depths[2:], 2)
        if height > 1
    ]
    last = "conv3" if config.bottleneck else "conv2"
    return (
        *(Drop(pattern, _UNUSED) for pattern in inner),
        Rename(r"^base_layer\.0\.", "stem.conv."),
        Rename(r"^base_layer\.1\.", "stem.norm."),
        Rename(
            r"^level([01])\.(\d+)\.", lambda m: f"stages.{m[1]}.{int(m[2]) // 3}.{('conv', 'norm')[int(m[2]) % 3]}."
        ),
        Rename(r"^level(\d)\.", r"stages.\1."),
        Rename(r"\.project\.0\.", ".project.conv."),
        Rename(r"\.project\.1\.", ".project.norm."),
        Rename(r"\.root\.bn\.", ".root.norm."),
        Rename(r"\.convs\.(\d)\.", r".res2.\1.conv."),
        Rename(r"\.bns\.(\d)\.", r".res2.\1.norm."),
        Rename(
            r"(\.tree\d)\.conv(\d)\.", lambda m: f"{m[1]}.{'conv3' if f'conv{m[2]}' == last else f'conv{m[2]}'}.conv."
        ),
        Rename(
            r"(\.tree\d)\.bn(\d)\.", lambda m: f"{m[1]}.{'conv3' if f'conv{m[2]}' == last else f'conv{m[2]}'}.norm."
        ),
        Rename(r"\.res2\.", ".conv2.convs."),
        Rename(r"^fc\.", "head."),
        Fix(r"^head\.weight$", lambda t: t.flatten(1), "[classes, C, 1, 1] -> [classes, C]"),
    )


RULES = {"timm": _rules, "official": _rules}
