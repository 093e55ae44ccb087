"""ResNet and the family around it: ResNet-D, SE-ResNet, ResNeXt, wide ResNet.

Sources: Deep Residual Learning, arXiv:1512.03385; Bag of Tricks (the D variant), arXiv:1812.01187;
Squeeze-and-Excitation, arXiv:1709.01507; Aggregated Residual Transformations, arXiv:1611.05431;
weakly supervised pre-training, arXiv:1805.00932.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.residual import (
    MMDET_OFFSET,
    Basic,
    Bottleneck,
    ResidualConfig,
    ResidualNetwork,
    dcn_options,
    mmdet_names,
    paddle_names,
    residual_names,
)
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess
from vertebra.weights import Fix, Rename
from vertebra.weights.card import published
from vertebra.weights.paddle import STATISTICS, transposed


@dataclass(frozen=True)
class Config(ResidualConfig):
    depths: tuple[int, int, int, int]  # blocks per stage
    bottleneck: bool = True  # bottleneck blocks (expansion 4), else basic ones
    groups: int = 1  # of the 3x3 convolution: ResNeXt's cardinality
    group_width: int = 64  # channels of each group in the first stage
    deep: bool = False  # the C and D variants: three 3x3 convolutions as stem
    pooled: bool = False  # the D variant: average-pooled shortcuts
    se: int = 0  # squeeze-and-excitation's reduction; 0 is without
    stride_first: bool = False  # whether a bottleneck's stride is in its first convolution, as in the original ResNets
    output_stride: int = 32  # 16 or 8 dilate the last stage, or the last two, instead of striding: arXiv:1706.05587

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bottleneck and any(self.dcn_stages):
            raise VertebraError("dcn_stages is for bottleneck blocks; basic blocks have no deformable convolution.")
        if not self.bottleneck and (self.groups, self.group_width) != (1, 64):
            raise VertebraError("groups and group_width are for bottleneck blocks; basic blocks have neither.")
        if not self.bottleneck and self.stride_first:
            raise VertebraError("stride_first is for bottleneck blocks; basic blocks always have it so.")
        if self.output_stride not in (8, 16, 32):
            raise VertebraError(f"output_stride is {self.output_stride}; it must be 8, 16 or 32.")


class ResNet(ResidualNetwork):
    """[B, channels, H, W] -> maps at strides 2, 4, 8, 16, 32; the last ones at `output_stride`."""

    def __init__(self, config: Config) -> None:
        if config.bottleneck:
            groups = {"groups": config.groups, "group_width": config.group_width}
            block: Callable[..., nn.Module] = partial(
                Bottleneck, pooled=config.pooled, se=config.se, stride_first=config.stride_first, **groups
            )
        else:
            block = partial(Basic, pooled=config.pooled, se=config.se)
        expansion = (Bottleneck if config.bottleneck else Basic).expansion
        super().__init__(config, config.depths, config.deep, block, expansion, config.output_stride)


MODEL = ResNet

_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

VARIANTS = {
    "resnet18": Config((2, 2, 2, 2), bottleneck=False),
    "resnet34": Config(_50, bottleneck=False),
    "resnet50": Config(_50),
    "resnet101": Config(_101),
    "resnet152": Config(_152),
    "wide_resnet50_2": Config(_50, group_width=128),
    "wide_resnet101_2": Config(_101, group_width=128),
    "resnet50_c": Config(_50, deep=True),
    "resnet101_c": Config(_101, deep=True),
    "resnet50_d": Config(_50, deep=True, pooled=True),
    "resnet101_d": Config(_101, deep=True, pooled=True),
    "resnet152_d": Config(_152, deep=True, pooled=True),
    "resnet200_d": Config((3, 24, 36, 3), deep=True, pooled=True),  # timm's depths
    "resnet200_vd": Config((3, 12, 48, 3), deep=True, pooled=True),  # PaddleClas's depths
    "se_resnet50": Config(_50, se=16),
    "se_resnet101": Config(_101, se=16),
    "se_resnet152": Config(_152, se=16),
    "se_resnext50_32x4d": Config(_50, groups=32, group_width=4, se=16),
    "resnext50_32x4d": Config(_50, groups=32, group_width=4),
    "resnext101_32x4d": Config(_101, groups=32, group_width=4),
    "resnext101_32x8d": Config(_101, groups=32, group_width=8),
    "resnext101_32x16d": Config(_101, groups=32, group_width=16),
    "resnext101_32x32d": Config(_101, groups=32, group_width=32),
    "resnext101_32x48d": Config(_101, groups=32, group_width=48),
    "resnext101_64x4d": Config(_101, groups=64, group_width=4),
}

ALIASES = {
    "resnet50c": "resnet50_c",
    "resnet101c": "resnet101_c",
    "resnet50_v1c": "resnet50_c",
    "resnet101_v1c": "resnet101_c",
    "resnet50d": "resnet50_d",
    "resnet101d": "resnet101_d",
    "resnet152d": "resnet152_d",
    "resnet200d": "resnet200_d",
    "resnet50_vd": "resnet50_d",
    "resnet101_vd": "resnet101_d",
    "resnet152_vd": "resnet152_d",
    "seresnet50": "se_resnet50",
    "seresnet101": "se_resnet101",
    "seresnet152": "se_resnet152",
    "seresnext50_32x4d": "se_resnext50_32x4d",
    "resnext101_32x8d_wsl": "resnext101_32x8d",
    "resnext101_32x16d_wsl": "resnext101_32x16d",
    "resnext101_32x32d_wsl": "resnext101_32x32d",
    "resnext101_32x48d_wsl": "resnext101_32x48d",
}


# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "resnet18.a1_in1k": published("resnet18.a1_in1k", "apache-2.0", 73.164, 288, 1.0, "bicubic"),
    "resnet18.tv_in1k": published("resnet18.tv_in1k", "bsd-3-clause", 69.752, 224, 0.875, "bilinear"),
    "resnet34.a1_in1k": published("resnet34.a1_in1k", "apache-2.0", 77.938, 288, 1.0, "bicubic"),
    "resnet50.a1_in1k": published("resnet50.a1_in1k", "apache-2.0", 81.24, 288, 1.0, "bicubic"),
    "resnet50.tv_in1k": published("resnet50.tv_in1k", "bsd-3-clause", 76.156, 224, 0.875, "bilinear"),
    "resnet50.tv2_in1k": published("resnet50.tv2_in1k", "bsd-3-clause", 80.844, 224, 0.965, "bilinear"),
    "resnet101.a1h_in1k": published("resnet101.a1h_in1k", "apache-2.0", 82.802, 288, 1.0, "bicubic"),
    "resnet101.tv_in1k": published("resnet101.tv_in1k", "bsd-3-clause", 77.404, 224, 0.875, "bilinear"),
    "resnet152.a1h_in1k": published("resnet152.a1h_in1k", "apache-2.0", 83.494, 288, 1.0, "bicubic"),
    "resnet152.tv_in1k": published("resnet152.tv_in1k", "bsd-3-clause", 78.33, 224, 0.875, "bilinear"),
    "wide_resnet50_2.racm_in1k": published("wide_resnet50_2.racm_in1k", "apache-2.0", 82.266, 288, 0.95, "bicubic"),
    "wide_resnet50_2.tv_in1k": published("wide_resnet50_2.tv_in1k", "bsd-3-clause", 78.48, 224, 0.875, "bilinear"),
    "wide_resnet101_2.tv_in1k": published("wide_resnet101_2.tv_in1k", "bsd-3-clause", 78.848, 224, 0.875, "bilinear"),
    "resnet50_d.ra2_in1k": published("resnet50d.ra2_in1k", "apache-2.0", 81.35, 288, 0.95, "bicubic"),
    "resnet101_d.ra2_in1k": published("resnet101d.ra2_in1k", "apache-2.0", 83.018, 320, 1.0, "bicubic"),
    "resnet152_d.ra2_in1k": published("resnet152d.ra2_in1k", "apache-2.0", 83.684, 320, 1.0, "bicubic"),
    "resnet200_d.ra2_in1k": published("resnet200d.ra2_in1k", "apache-2.0", 83.976, 320, 1.0, "bicubic"),
    "se_resnet50.ra2_in1k": published("seresnet50.ra2_in1k", "apache-2.0", 81.282, 288, 0.95, "bicubic"),
    "se_resnet50.a1_in1k": published("seresnet50.a1_in1k", "apache-2.0", 81.104, 288, 1.0, "bicubic"),
    "se_resnext50_32x4d.racm_in1k": published(
        "seresnext50_32x4d.racm_in1k", "apache-2.0", 82.186, 288, 0.95, "bicubic"
    ),
    "resnext50_32x4d.a1h_in1k": published("resnext50_32x4d.a1h_in1k", "apache-2.0", 82.012, 288, 1.0, "bicubic"),
    "resnext50_32x4d.tv_in1k": published("resnext50_32x4d.tv_in1k", "bsd-3-clause", 77.632, 224, 0.875, "bilinear"),
    "resnext101_32x4d.gluon_in1k": published(
        "resnext101_32x4d.gluon_in1k", "apache-2.0", 80.336, 224, 0.875, "bicubic"
    ),
    "resnext101_32x8d.tv_in1k": published("resnext101_32x8d.tv_in1k", "bsd-3-clause", 79.314, 224, 0.875, "bilinear"),
    "resnext101_32x8d.fb_wsl_ig1b_ft_in1k": published(
        "resnext101_32x8d.fb_wsl_ig1b_ft_in1k", "cc-by-nc-4.0", 82.72, 224, 0.875, "bilinear"
    ),
    "resnext101_32x16d.fb_wsl_ig1b_ft_in1k": published(
        "resnext101_32x16d.fb_wsl_ig1b_ft_in1k", "cc-by-nc-4.0", 84.164, 224, 0.875, "bilinear"
    ),
    "resnext101_32x32d.fb_wsl_ig1b_ft_in1k": published(
        "resnext101_32x32d.fb_wsl_ig1b_ft_in1k", "cc-by-nc-4.0", 85.098, 224, 0.875, "bilinear"
    ),
    "resnext101_64x4d.tv_in1k": published("resnext101_64x4d.tv_in1k", "bsd-3-clause", 82.978, 224, 0.875, "bilinear"),
    "resnext101_64x4d.c1_in1k": published("resnext101_64x4d.c1_in1k", "apache-2.0", 83.158, 288, 1.0, "bicubic"),
}


def _rules(config: Config) -> weights.Rules:
    return residual_names(config.deep, config.pooled)


def _paddle(config: Config) -> weights.Rules:
    """PaddleClas's names, without its ResNet-18 and 34, whose first block has a convolution in its shortcut, unlike
    ours and other libraries'. ResNet50_vc, whose shortcut has no pool, is not in the family either."""
    if config.groups == 1 and not config.se:
        return _paddle_resnet(config)
    return (
        # Names of the WSL models: PaddleClas 2.5, ppcls/arch/backbone/model_zoo/resnext101_wsl.py.
        Rename(r"^_conv_stem\.", "conv."),
        Rename(r"^_conv(\d)_(\d+)\._conv(\d)\.", lambda m: f"bb_{int(m[1]) - 1}_{m[2]}.conv{m[3]}."),
        Rename(r"^_conv(\d)_(\d+)\._short\._conv\.", lambda m: f"bb_{int(m[1]) - 1}_{m[2]}.short."),
        Rename(r"\._bn\.", "._batch_norm."),
        Rename(r"^_out\.", "out."),
        *paddle_names(),
    )


def _paddle_resnet(config: Config) -> weights.Rules:
    """Names: PaddleClas 2.5, ppcls/arch/backbone/legendary_models/resnet.py; blocks are numbered through all stages."""
    places = [f"{stage}.{i}" for stage, depth in enumerate(config.depths) for i in range(depth)]

    def block(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"stages.{places[number]}." if number < len(places) else match[0]

    return (
        Rename(r"^blocks\.(\d+)\.", block),
        Rename(r"^(stages\.\d\.\d+)\.conv([012])\.", lambda m: f"{m[1]}.conv{int(m[2]) + 1}."),
        Rename(r"\.short\.", ".shortcut.1."),
        Rename(r"\.bn\.", ".norm."),
        *STATISTICS,
        Rename(r"^fc\.", "head."),
        transposed(r"^head\.weight$"),
    )


def _mmdet(config: Config) -> weights.Rules:
    return mmdet_names(config.deep, config.pooled)


def _mmdet_caffe(config: Config) -> weights.Rules:
    return (*mmdet_names(config.deep, config.pooled), _from_bgr(config))


def _detectron2(config: Config) -> weights.Rules:
    """Names: Detectron2, detectron2/modeling/backbone/resnet.py."""
    return (*_DETECTRON2, _from_bgr(config))


def _from_bgr(config: Config) -> Fix:
    """The original takes BGR less ImageNet's mean, in 0..255 except for ResNeXt; the fixed one takes normalised RGB."""

    def fixed(x: Tensor) -> Tensor:
        x = x.flip(1)
        deviations = x.new_tensor(Preprocess.std)[:, None, None]
        return x if config.groups > 1 or x.shape[1] != 3 else x * 255 * deviations

    return Fix(r"^stem\.0\.conv\.weight$", fixed, "from BGR to RGB, normalised as usual")


_DETECTRON2 = (
    Rename(r"^backbone\.bottom_up\.", ""),
    Rename(r"^stem\.conv1\.norm\.", "stem.0.norm."),
    Rename(r"^stem\.conv1\.", "stem.0.conv."),
    Rename(r"^res([2-5])\.", lambda m: f"stages.{int(m[1]) - 2}."),
    Rename(r"^(stages.*)\.shortcut\.norm\.", r"\1.shortcut.1.norm."),
    Rename(r"^(stages.*)\.shortcut\.(?=weight)", r"\1.shortcut.1.conv."),
    Rename(r"^(stages.*)\.conv(\d)\.(?=weight)", r"\1.conv\2.conv."),
    Rename(r"^(stages.*)\.conv2_offset\.", r"\1.conv2.conv.offset."),
    Rename(r"^linear\.", "head."),
)

# The WSL models have torchvision's names too.
RULES = {
    "timm": _rules,
    "torchvision": _rules,
    "official": _rules,
    "mmdet": _mmdet,
    "mmdet/caffe": _mmdet_caffe,  # its configs with `caffe` in their names
    "mmseg": _mmdet,
    "detectron2": _detectron2,
    "detectron2/rgb": _DETECTRON2,  # trained from torchvision's weights, with its stride and preprocessing
    "paddle": _paddle,
}


def _options(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Those of the deformable convolutions, which basic blocks do not have."""
    return dcn_options(state) if config.bottleneck else {}


def _caffe_options(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Detectron2's own ResNets come from the original ones, in Caffe; its ResNeXts and those with GroupNorm, which has
    no running statistics, do not."""
    normed = any(re.search(r"(^|[._])(norm|gn\d)\.weight$", name) for name in state)
    grouped = normed and not any(name.endswith("running_mean") for name in state)
    stride = {"stride_first": True} if config.bottleneck and config.groups == 1 and not grouped else {}
    return stride | _options(config, state)


PRESETS: dict[str, Any] = {
    "detectron2": _caffe_options,
    "detectron2/rgb": _options,
    "mmdet": _options,
    "mmdet/caffe": _caffe_options,
    "mmseg": _options,
}
MARKS = {"mmdet": MMDET_OFFSET}
