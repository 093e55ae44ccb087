"""Big-little networks: a deep branch at half resolution beside a light one at full, with plain and Res2Net blocks.

Sources: Big-Little Net, arXiv:1807.03848, as in the authors' code; the Res2Net blocks are arXiv:1904.01169.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.backbones.residual import Residual, residual_names
from vertebra.nn.conv import ConvNorm
from vertebra.nn.drop import drop_path_rates
from vertebra.nn.res2 import Res2Conv
from vertebra.structures import Level
from vertebra.weights import Rename

STRIDES = (2, 2, 1, 2)  # of the stages


@dataclass(frozen=True)
class Config(BackboneConfig):
    depths: tuple[int, int, int, int]  # blocks per stage, of the ResNet that the network is made from
    alpha: int = 2  # the little branch has 1 / alpha of the channels
    beta: int = 4  # and 1 / beta of the blocks
    group_width: int = 64  # channels of a Res2Net group in the first stage
    scale: int = 1  # groups of a Res2Net block; 1 is an ordinary convolution


class Bottleneck(Residual):
    """1x1, 3x3 with the stride, 1x1: [B, C, H, W] -> [B, outputs, H / stride, W / stride]."""

    def __init__(
        self, config: Config, inputs: int, outputs: int, stride: int, drop_path: float, activation: str = "relu"
    ) -> None:
        pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None  # zeros of the padding are counted
        super().__init__(inputs, outputs, stride, drop_path=drop_path, pool=pool, activation=activation)
        group = outputs // 4 * config.group_width // 64
        self.conv1 = ConvNorm(inputs, group * config.scale)
        self.conv2: nn.Module = (
            ConvNorm(group, group, 3, stride)
            if config.scale == 1
            else Res2Conv(group, config.scale, stride, first=stride != 1 or inputs != outputs)
        )
        self.conv3 = self.last(group * config.scale, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.conv3, self.conv2(self.conv1(x)), x)


class Stem(nn.Module):
    """7x7, then a strided 3x3 beside a light branch, summed: [B, channels, H, W] -> [B, 64, H / 4, W / 4]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        thin = 64 // config.alpha
        self.conv = ConvNorm(config.channels, 64, 7, 2)
        self.big = ConvNorm(64, 64, 3, 2, activation="none")
        self.little = nn.Sequential(ConvNorm(64, thin, 3), ConvNorm(thin, thin, 3, 2))
        self.join = ConvNorm(thin, 64)
        self.last = ConvNorm(64, 64)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        y: Tensor = self.last(self.join(self.little(x), self.big(x)))
        return y


class Stage(nn.Module):
    """Big branch at half resolution, little branch at full, their sum, and a block over it:
    [B, C, H, W] -> [B, outputs, H / stride, W / stride].

    Source: arXiv:1807.03848, section 3.1 and figure 2.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, stride: int, rates: Sequence[float]) -> None:
        """`rates` are the drop path rates of the big branch's blocks, then of the last block."""
        super().__init__()
        depth = len(rates)
        thin, big = outputs // config.alpha, depth - 1
        # The big branch's last block leaves the activation to the sum, unless it is the only one.
        self.big = nn.Sequential(
            *(
                Bottleneck(
                    config,
                    inputs if i == 0 else outputs,
                    outputs,
                    2 if i == 0 else 1,
                    rates[i],
                    activation="none" if 0 < i == big - 1 else "relu",
                )
                for i in range(big)
            )
        )
        little = max(1, depth // config.beta - 1)
        self.little = nn.Sequential(
            *(Bottleneck(config, inputs if i == 0 else thin, thin, 1, rates[i]) for i in range(little))
        )
        first = self.little[0]
        assert isinstance(first, Bottleneck)
        first.conv3.keeps_residual = True  # the input goes to both branches, and may be a map of the pyramid
        self.join = ConvNorm(thin, outputs)
        self.fusion = Bottleneck(config, outputs, outputs, stride, rates[-1])

    def forward(self, x: Tensor) -> Tensor:
        little = self.little(x)
        big = nn.functional.interpolate(self.big(x), little.shape[2:])  # nearest
        y: Tensor = self.fusion(self.join(little, big))
        return y


class BigLittle(Backbone):
    """[B, channels, H, W] -> maps at strides 4, 8, 16, 32: the last of each stride."""

    first_conv = "stem.conv.conv.weight"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stem = Stem(config)
        all_rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        inputs, stride, levels = 64, 4, [Level(4, 64)]
        self.stages = nn.ModuleList()
        for i, depth in enumerate(config.depths):
            outputs, rates = 256 * 2**i, list(itertools.islice(all_rates, depth))
            if i < 3:
                self.stages.append(Stage(config, inputs, outputs, STRIDES[i], rates))
            else:
                self.stages.append(
                    nn.Sequential(
                        *(
                            Bottleneck(config, inputs if j == 0 else outputs, outputs, 2 if j == 0 else 1, rates[j])
                            for j in range(depth)
                        )
                    )
                )
            inputs, stride = outputs, stride * STRIDES[i]
            levels.append(Level(stride, outputs))
        # Two stages end at stride 16; the second of them is the level.
        self.level_stages = (0, 2, 3)
        self.levels, self.width = (levels[0], *(levels[i + 1] for i in self.level_stages)), inputs

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.stem(images)
        on_level(x)
        for i, stage in enumerate(self.stages):
            x = self.run_block(stage, x)
            if i in self.level_stages:
                on_level(x)
        return x

    def layers(self) -> list[nn.Module]:
        return [self.stem, *self.stages.children()]


MODEL = BigLittle

VARIANTS = {
    "blresnet50": Config((3, 4, 6, 3)),
    "blresnet101": Config((4, 8, 18, 3)),  # the authors' depths for 101 layers
    "blres2net50": Config((3, 4, 6, 3), group_width=26, scale=4),
}

ALIASES: dict[str, str] = {}

# ImageNet-1k top-1 in percent as it was published, and by whom.
PUBLISHED = {
    "blresnet50": (77.59, "Res2Net's paper, table 1"),
    "blres2net50": (78.32, "Res2Net's paper, table 1"),
}

WEIGHTS: dict[str, weights.Weights] = {}

_STEM = {"b_conv0": "big", "l_conv0": "little.0", "l_conv1": "little.1", "l_conv2": "join", "bl_init": "last"}
_NORM = {"bn_b0": "big", "bn_l0": "little.0", "bn_l1": "little.1", "bn_l2": "join", "bn_bl_init": "last"}

_official = (
    Rename(r"^(bl?_conv0|l_conv\d|bl_init)\.", lambda m: f"stem.{_STEM[m[1]]}.conv."),
    Rename(r"^(bn_\w+)\.", lambda m: f"stem.{_NORM[m[1]]}.norm."),
    Rename(r"^conv1\.", "stem.conv.conv."),
    Rename(r"^bn1\.", "stem.conv.norm."),
    Rename(r"\.little_e\.0\.", ".join.conv."),
    Rename(r"\.little_e\.1\.", ".join.norm."),
    Rename(r"\.fusion\.0\.", ".fusion."),
    # A strided shortcut begins with its pool; the little branch's, which does not stride, has none.
    Rename(r"(\.little\.\d+)\.downsample\.0\.", r"\1.shortcut.1.conv."),
    Rename(r"(\.little\.\d+)\.downsample\.1\.", r"\1.shortcut.1.norm."),
    *residual_names(deep=True, pooled=True)[4:],
)

RULES = {"official": _official}
