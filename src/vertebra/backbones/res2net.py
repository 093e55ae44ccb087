"""Res2Net: residual blocks whose 3x3 convolution is a hierarchy of smaller ones.

Sources: Res2Net, arXiv:1904.01169; v1b is the authors' later release with ResNet-D's stem and shortcut
(arXiv:1812.01187); Res2NeXt is section 3.2's cardinality, SE-Res2Net its squeeze-and-excitation.
The Res2Net blocks inside DLA and bLNet are variants of those families.

A variant's name says the width of a group at 64 planes and the number of groups: 26w4s is 26 channels by 4.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vertebra import weights
from vertebra.backbones.residual import (
    MMDET_OFFSET,
    Residual,
    ResidualConfig,
    ResidualNetwork,
    dcn_options,
    mmdet_names,
    paddle_names,
    residual_names,
    shortcut_pool,
)
from vertebra.nn.conv import ConvNorm
from vertebra.nn.res2 import Res2Conv
from vertebra.weights import Rename
from vertebra.weights.card import published


@dataclass(frozen=True)
class Config(ResidualConfig):
    depths: tuple[int, int, int, int]  # blocks per stage
    group_width: int  # channels of each group in the first stage, per `groups`
    scale: int  # groups, each of which also receives the output of the one before
    groups: int = 1  # of each 3x3 convolution: cardinality
    deep: bool = False  # v1b and vd: three 3x3 convolutions as stem, average-pooled shortcuts
    se: int = 0  # squeeze-and-excitation's reduction; 0 is without
    apart: bool = True  # whether groups are apart in the first block of all stages, or only of those with a stride
    pooled: bool = True  # whether the last group is pooled there, or only in those with a stride
    count_include_pad: bool = True  # whether the zeros of the padding count in the pool of the last group


class Bottle2neck(Residual):
    """1x1, hierarchical 3x3 with the stride, 1x1: [B, C, H, W] -> [B, 4 width, H / stride, W / stride].

    Source: arXiv:1904.01169, figure 2b.
    """

    def __init__(self, config: Config, inputs: int, width: int, stride: int, drop_path: float) -> None:
        pool = shortcut_pool(stride) if config.deep else None
        super().__init__(inputs, 4 * width, stride, drop_path=drop_path, se=config.se, pool=pool)
        group = width * config.group_width // 64 * config.groups
        first = inputs != 4 * width  # of its stage
        self.conv1 = ConvNorm(inputs, group * config.scale)
        self.conv2 = Res2Conv(
            group,
            config.scale,
            stride,
            first=first,
            groups=config.groups,
            apart=config.apart,
            pooled=config.pooled,
            count_include_pad=config.count_include_pad,
        )
        self.conv3 = self.last(group * config.scale, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.conv3, self.conv2(self.conv1(x)), x)


class Res2Net(ResidualNetwork):
    """[B, channels, H, W] -> maps at strides 2, 4, 8, 16, 32."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.depths, config.deep, partial(Bottle2neck, config), expansion=4)


MODEL = Res2Net

_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)

VARIANTS = {
    "res2net50_14w8s": Config(_50, 14, 8),
    "res2net50_26w4s": Config(_50, 26, 4),
    "res2net50_26w6s": Config(_50, 26, 6),
    "res2net50_26w8s": Config(_50, 26, 8),
    "res2net50_48w2s": Config(_50, 48, 2),
    "res2net101_26w4s": Config(_101, 26, 4),
    "res2net50_v1b": Config(_50, 26, 4, deep=True),
    "res2net101_v1b": Config(_101, 26, 4, deep=True),
    "res2net200_vd": Config((3, 12, 48, 3), 26, 4, deep=True),  # PaddleClas's depths
    "res2next50": Config(_50, 4, 4, groups=8),
    "se_res2net50": Config(_50, 26, 4, se=16),
}

ALIASES = {
    "res2net50_14w_8s": "res2net50_14w8s",
    "res2net50_26w_4s": "res2net50_26w4s",
    "res2net50_26w_6s": "res2net50_26w6s",
    "res2net50_26w_8s": "res2net50_26w8s",
    "res2net50_48w_2s": "res2net50_48w2s",
    "res2net101_26w_4s": "res2net101_26w4s",
    "res2net50d": "res2net50_v1b",
    "res2net101d": "res2net101_v1b",
    "res2net200_vd_26w_4s": "res2net200_vd",
}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "res2net50_14w8s": (78.14, "authors' README"),
    "res2net50_26w4s": (77.99, "authors' README"),
    "res2net50_26w6s": (78.58, "authors' README"),
    "res2net50_26w8s": (79.2, "authors' README"),
    "res2net50_48w2s": (77.32, "authors' README"),
    "res2net101_26w4s": (79.19, "authors' README"),
    "res2net50_v1b": (80.27, "authors' README"),
    "res2net101_v1b": (81.23, "authors' README"),
    "res2net200_vd": (85.13, "PaddleClas (SSLD)"),
    "res2next50": (78.24, "authors' README"),
    "se_res2net50": (78.44, "paper, table 1"),
}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
# timm names no licence; that of the authors' repository (Res2Net-PretrainedModels, 1d51000f) is CC BY-NC-SA 4.0.
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "res2net50_14w8s.in1k": published("res2net50_14w_8s.in1k", "cc-by-nc-sa-4.0", 78.146, 224, 0.875, "bilinear"),
    "res2net50_26w4s.in1k": published("res2net50_26w_4s.in1k", "cc-by-nc-sa-4.0", 77.986, 224, 0.875, "bilinear"),
    "res2net50_26w6s.in1k": published("res2net50_26w_6s.in1k", "cc-by-nc-sa-4.0", 78.584, 224, 0.875, "bilinear"),
    "res2net50_26w8s.in1k": published("res2net50_26w_8s.in1k", "cc-by-nc-sa-4.0", 78.948, 224, 0.875, "bilinear"),
    "res2net50_48w2s.in1k": published("res2net50_48w_2s.in1k", "cc-by-nc-sa-4.0", 77.536, 224, 0.875, "bilinear"),
    "res2net101_26w4s.in1k": published("res2net101_26w_4s.in1k", "cc-by-nc-sa-4.0", 79.186, 224, 0.875, "bilinear"),
    "res2net50_v1b.in1k": published("res2net50d.in1k", "cc-by-nc-sa-4.0", 80.27, 224, 0.875, "bilinear"),
    "res2net101_v1b.in1k": published("res2net101d.in1k", "cc-by-nc-sa-4.0", 81.254, 224, 0.875, "bilinear"),
    "res2next50.in1k": published("res2next50.in1k", "cc-by-nc-sa-4.0", 78.236, 224, 0.875, "bilinear"),
}


_SPLITS = (
    Rename(r"\.convs\.(\d)\.", r".conv2.convs.\1.conv."),
    Rename(r"\.bns\.(\d)\.", r".conv2.convs.\1.norm."),
)


def _rules(config: Config) -> weights.Rules:
    return (*residual_names(config.deep, config.deep), *_SPLITS)


def _mmdet(config: Config) -> weights.Rules:
    return (*mmdet_names(config.deep, config.deep), *_SPLITS)


_paddle = (
    *paddle_names(),
    # The convolution of a group is a sublayer with the block's old name, such as res2a_branch2b_1.
    Rename(r"\.res\w+_branch2b_(\d)\.", lambda m: f".conv2.convs.{int(m[1]) - 1}."),
)

RULES = {"timm": _rules, "official": _rules, "mmdet": _mmdet, "mmseg": _mmdet, "paddle": _paddle}


def _mmdet_options(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"pooled": False, **dcn_options(state)}


PRESETS = {
    "paddle": {"apart": False, "count_include_pad": False},
    "mmdet": _mmdet_options,
    "mmseg": _mmdet_options,
}
MARKS = {"mmdet": MMDET_OFFSET}
