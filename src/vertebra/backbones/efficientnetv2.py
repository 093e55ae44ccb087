"""EfficientNetV2: Smaller Models and Faster Training, arXiv:2104.00298.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.nn.conv import ConvNorm
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.squeeze_excite import SqueezeExcite
from vertebra.structures import Level
from vertebra.weights import Rename
from vertebra.weights.card import HALF, published

STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 4, 4, 4, 6, 6, 6)
FUSED = 3  # the first three stages are Fused-MBConv, the others MBConv


@dataclass(frozen=True)
class Config(BackboneConfig):
    depths: tuple[int, ...]  # blocks per stage
    widths: tuple[int, ...]  # channels per stage
    stem: int  # channels of the stem
    final: int = 1280  # channels of the 1x1 convolution before pooling
    same: bool = False  # TensorFlow's padding, which the original weights were trained with
    eps: float = 1e-3  # of batch norm
    plain: bool = True  # whether the first stage's blocks are one convolution, without a projection


class Plain(nn.Module):
    """A Fused-MBConv without expansion, one 3x3 convolution: [B, C, H, W] -> [B, C', H / stride, W / stride]."""

    def __init__(self, config: Config, inputs: int, outputs: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs, 3, stride, activation="silu", eps=config.eps, same=config.same)
        self.drop_path = DropPath(drop)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + self.drop_path(y) if self.residual else y


class FusedMBConv(nn.Module):
    """3x3 expansion, 1x1 projection: [B, C, H, W] -> [B, C', H / stride, W / stride].

    Source: arXiv:2104.00298, figure 2, right.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        inside = inputs * expansion
        self.expand = ConvNorm(inputs, inside, 3, stride, activation="silu", eps=config.eps, same=config.same)
        self.project = ConvNorm(inside, outputs, activation="none", eps=config.eps)
        self.drop_path = DropPath(drop)
        self.residual = stride == 1 and inputs == outputs

    def inner(self, x: Tensor) -> Tensor:
        return self.expand(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if not self.residual:
            return self.project(y)
        if self.training:
            return x + self.drop_path(self.project(y))
        return self.project(y, x)  # the sum can be fused with the convolution


class MBConv(FusedMBConv):
    """1x1 expansion, depthwise 3x3, squeeze-and-excitation, 1x1 projection: shapes as FusedMBConv.

    Source: arXiv:2104.00298, figure 2, left; the gate's width is a quarter of the block's input channels.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__(config, inputs, outputs, stride, expansion, drop)
        inside = inputs * expansion
        self.expand = ConvNorm(inputs, inside, activation="silu", eps=config.eps)
        self.depthwise = ConvNorm(inside, inside, 3, stride, inside, "silu", config.eps, config.same)
        self.se = SqueezeExcite(inside, inputs // 4, "silu")

    def inner(self, x: Tensor) -> Tensor:
        return self.se(self.depthwise(self.expand(x)))


class EfficientNetV2(Backbone):
    """[B, channels, H, W] -> maps at strides 2, 4, 8, 16, 32: the last of each stride."""

    first_conv = "stem.conv.weight"
    embedding_only = ("final.",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stem = ConvNorm(config.channels, config.stem, 3, 2, 1, "silu", config.eps, config.same)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        inputs, stride, levels = config.stem, 2, []
        self.stages = nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            block = MBConv if stage >= FUSED else Plain if stage == 0 and config.plain else FusedMBConv
            blocks = []
            for i in range(depth):
                step = STRIDES[stage] if i == 0 else 1
                blocks.append(block(config, inputs, width, step, EXPANSIONS[stage], next(rates)))
                inputs = width
            self.stages.append(nn.ModuleList(blocks))
            stride *= STRIDES[stage]
            levels.append(Level(stride, width))
        # A stage's map is a level when the next stage strides (or there is none).
        self.last = tuple(i for i in range(len(levels)) if i + 1 == len(levels) or STRIDES[i + 1] == 2)
        self.levels = tuple(levels[i] for i in self.last)
        self.width = config.final
        if config.embedding:
            self.final = ConvNorm(inputs, config.final, activation="silu", eps=config.eps)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.stem(images)  # [B, stem, H / 2, W / 2]
        for i, stage in enumerate(self.stages):
            for block in stage.children():
                x = self.run_block(block, x)
            if i in self.last:
                on_level(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        return self.final(x).mean((2, 3))

    def layers(self) -> list[nn.Module]:
        final = [self.final] if self.config.embedding else []
        return [self.stem, *(block for stage in self.stages for block in stage.children()), *final]


MODEL = EfficientNetV2

VARIANTS = {
    #                          depths                       widths                             stem
    "efficientnetv2_b0": Config((1, 2, 2, 3, 5, 8), (16, 32, 48, 96, 112, 192), 32),
    "efficientnetv2_b1": Config((2, 3, 3, 4, 6, 9), (16, 32, 48, 96, 112, 192), 32),
    "efficientnetv2_b2": Config((2, 3, 3, 4, 6, 10), (16, 32, 56, 104, 120, 208), 32, 1408),
    "efficientnetv2_b3": Config((2, 3, 3, 5, 7, 12), (16, 40, 56, 112, 136, 232), 40, 1536),
    "efficientnetv2_s": Config((2, 4, 4, 6, 9, 15), (24, 48, 64, 128, 160, 256), 24),
    "efficientnetv2_m": Config((3, 5, 5, 7, 14, 18, 5), (24, 48, 80, 160, 176, 304, 512), 24),
    "efficientnetv2_l": Config((4, 7, 7, 10, 19, 25, 7), (32, 64, 96, 192, 224, 384, 640), 32),
    "efficientnetv2_xl": Config((4, 8, 8, 16, 24, 32, 8), (32, 64, 96, 192, 256, 512, 640), 32),
}
VARIANTS |= {f"tf_{name}": replace(config, same=True) for name, config in VARIANTS.items()}
VARIANTS |= {
    # timm's own models of the kind, smaller and larger than S.
    "efficientnetv2_rw_t": Config((2, 4, 4, 6, 9, 14), (24, 40, 48, 104, 128, 208), 24, 1024, eps=1e-5),
    "efficientnetv2_rw_s": Config((2, 4, 4, 6, 9, 15), (24, 48, 64, 128, 160, 272), 24, 1792, eps=1e-5, plain=False),
    "efficientnetv2_rw_m": Config((3, 5, 5, 8, 15, 24), (32, 56, 80, 152, 192, 328), 32, 2152, eps=1e-5, plain=False),
}

ALIASES = {f"efficientnet_v2_{size}": f"efficientnetv2_{size}" for size in ("s", "m", "l")}

# Top-1 is ImageNet-1k validation accuracy at the size and crop named, from timm's results-imagenet.csv
# (commit 7479d451).
WEIGHTS = {
    # timm's repository on the Hub, licence, top-1, size, crop, interpolation
    "tf_efficientnetv2_b0.in1k": published("tf_efficientnetv2_b0.in1k", "apache-2.0", 78.38, 224, 0.875, "bicubic"),
    "tf_efficientnetv2_b1.in1k": published("tf_efficientnetv2_b1.in1k", "apache-2.0", 79.518, 240, 0.882, "bicubic"),
    "tf_efficientnetv2_b2.in1k": published("tf_efficientnetv2_b2.in1k", "apache-2.0", 80.226, 260, 0.89, "bicubic"),
    "tf_efficientnetv2_b3.in1k": published("tf_efficientnetv2_b3.in1k", "apache-2.0", 81.96, 300, 0.904, "bicubic"),
    "tf_efficientnetv2_b3.in21k_ft_in1k": published(
        "tf_efficientnetv2_b3.in21k_ft_in1k",
        "apache-2.0",
        82.634,
        300,
        0.9,
        "bicubic",
        "squash",
        mean=HALF,
        std=HALF,
    ),
    "tf_efficientnetv2_s.in1k": published(
        "tf_efficientnetv2_s.in1k", "apache-2.0", 83.896, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "tf_efficientnetv2_s.in21k_ft_in1k": published(
        "tf_efficientnetv2_s.in21k_ft_in1k", "apache-2.0", 84.316, 384, 1.0, "bicubic", mean=HALF, std=HALF
    ),
    "tf_efficientnetv2_m.in1k": published(
        "tf_efficientnetv2_m.in1k", "apache-2.0", 85.21, 480, 1.0, "bicubic", "squash", mean=HALF, std=HALF
    ),
    "tf_efficientnetv2_m.in21k_ft_in1k": published(
        "tf_efficientnetv2_m.in21k_ft_in1k",
        "apache-2.0",
        86.014,
        480,
        1.0,
        "bicubic",
        "squash",
        mean=HALF,
        std=HALF,
    ),
    "tf_efficientnetv2_l.in1k": published(
        "tf_efficientnetv2_l.in1k", "apache-2.0", 85.66, 480, 1.0, "bicubic", "squash", mean=HALF, std=HALF
    ),
    "tf_efficientnetv2_l.in21k_ft_in1k": published(
        "tf_efficientnetv2_l.in21k_ft_in1k",
        "apache-2.0",
        86.802,
        480,
        1.0,
        "bicubic",
        "squash",
        mean=HALF,
        std=HALF,
    ),
    "tf_efficientnetv2_xl.in21k_ft_in1k": published(
        "tf_efficientnetv2_xl.in21k_ft_in1k",
        "apache-2.0",
        86.748,
        512,
        1.0,
        "bicubic",
        "squash",
        mean=HALF,
        std=HALF,
    ),
    "efficientnetv2_rw_t.ra2_in1k": published(
        "efficientnetv2_rw_t.ra2_in1k", "apache-2.0", 82.354, 288, 1.0, "bicubic"
    ),
    "efficientnetv2_rw_s.ra2_in1k": published("efficientnetv2_rw_s.ra2_in1k", "apache-2.0", 83.83, 384, 1.0, "bicubic"),
    "efficientnetv2_rw_m.agc_in1k": published(
        "efficientnetv2_rw_m.agc_in1k", "apache-2.0", 84.824, 416, 1.0, "bicubic"
    ),
}

# Stages 0 to 2 and 3 to 6 hold different blocks, so the same foreign name (bn2, block.1) means different layers.
_TIMM = (
    Rename(r"^conv_stem\.", "stem.conv."),
    Rename(r"^bn1\.", "stem.norm."),
    Rename(r"^conv_head\.", "final.conv."),
    Rename(r"^bn2\.", "final.norm."),
    Rename(r"^classifier\.", "head."),
    Rename(r"^blocks\.", "stages."),
    Rename(r"^(stages.*)\.conv\.weight", r"\1.conv.conv.weight"),
    Rename(r"^(stages.*)\.conv_(exp|pw)\.", r"\1.expand.conv."),
    Rename(r"^(stages.*)\.conv_dw\.", r"\1.depthwise.conv."),
    Rename(r"^(stages.*)\.conv_pwl\.", r"\1.project.conv."),
    Rename(r"^(stages.*)\.bn3\.", r"\1.project.norm."),
    Rename(r"^(stages\.[0-2].*)\.bn2\.", r"\1.project.norm."),
    Rename(r"^(stages.*)\.bn2\.", r"\1.depthwise.norm."),
    Rename(r"^(stages.*)\.se\.conv_(reduce|expand)\.", r"\1.se.\2."),
)


def _timm(config: Config) -> weights.Rules:
    first = "conv" if config.plain else "expand"
    return (
        *_TIMM,
        Rename(r"^(stages\.0.*)\.bn1\.", rf"\1.{first}.norm."),
        Rename(r"^(stages.*)\.bn1\.", r"\1.expand.norm."),
    )


_TORCHVISION = (
    Rename(r"^classifier\.1\.", "head."),
    Rename(r"^features\.0\.0\.", "stem.conv."),
    Rename(r"^features\.0\.1\.", "stem.norm."),
    Rename(r"^features\.\d\.0\.weight", "final.conv.weight"),
    Rename(r"^features\.\d\.1\.(?!block)", "final.norm."),
    Rename(r"^features\.(\d)\.(\d+)\.block\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}."),
    Rename(r"^(stages\.0\.\d+)\.0\.", r"\1.conv."),
    Rename(r"^(stages\.\d\.\d+)\.0\.", r"\1.expand."),
    Rename(r"^(stages\.[12]\.\d+)\.1\.", r"\1.project."),
    Rename(r"^(stages\.\d\.\d+)\.1\.", r"\1.depthwise."),
    Rename(r"^(stages\.\d\.\d+)\.2\.fc1\.", r"\1.se.reduce."),
    Rename(r"^(stages\.\d\.\d+)\.2\.fc2\.", r"\1.se.expand."),
    Rename(r"^(stages\.\d\.\d+)\.3\.", r"\1.project."),
    Rename(r"^(stages.*\.(?:conv|expand|depthwise|project))\.0\.", r"\1.conv."),
    Rename(r"^(stages.*\.(?:conv|expand|depthwise|project))\.1\.", r"\1.norm."),
)


def _official(config: Config) -> weights.Rules:
    """The PyTorch port of the original checkpoints that numbers the blocks through all stages."""
    place = [f"stages.{stage}.{i}." for stage, depth in enumerate(config.depths) for i in range(depth)]

    def placed(match: re.Match[str]) -> str:
        block = int(match[1])
        return place[block] if block < len(place) else match[0]

    return (
        Rename(r"^blocks\.(\d+)\.", placed),
        Rename(r"^(stages\.0.*)\.project_conv\.", r"\1.conv."),
        Rename(r"\.expand_conv\.", ".expand."),
        Rename(r"\.dwconv\.", ".depthwise."),
        Rename(r"\.se\.conv_(reduce|expand)\.", r".se.\1."),
        Rename(r"^head\.project_conv\.", "final."),
        Rename(r"\.project_conv\.", ".project."),
        Rename(r"^head\.classifier\.", "head."),
        Rename(r"\.bn\.", ".norm."),
    )


RULES = {"timm": _timm, "torchvision": _TORCHVISION, "official": _official}
