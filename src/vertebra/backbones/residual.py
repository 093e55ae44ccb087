"""What the families of residual networks share: stem, shortcut, sum, the loop over stages, and their names elsewhere.

Shapes: B batch, C channels, H x W feature cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig
from vertebra.errors import VertebraError, in_range
from vertebra.nn.conv import ConvNorm
from vertebra.nn.deform import deform
from vertebra.nn.drop import DropPath, drop_path_rates
from vertebra.nn.squeeze_excite import SqueezeExcite
from vertebra.structures import Level
from vertebra.weights import Fix, Rename
from vertebra.weights.paddle import STATISTICS, transposed


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(BackboneConfig):
    """Options of the residual networks of four stages."""

    dcn_stages: tuple[bool, bool, bool, bool] = (False, False, False, False)
    """Whether the 3x3 convolutions of each stage are deformable: arXiv:1703.06211."""
    dcn_modulated: bool = False
    """Whether their samples are weighted too: Deformable ConvNets v2, arXiv:1811.11168."""
    dcn_groups: int = 1
    """Groups of channels that have their own offsets."""
    zero_init_residual: bool = False
    """Whether the last norm of every block starts with a weight of 0: arXiv:1706.02677, section 5.1."""

    def __post_init__(self) -> None:
        in_range("dcn_groups", self.dcn_groups, 1)
        if not any(self.dcn_stages) and (self.dcn_modulated or self.dcn_groups != 1):
            raise VertebraError("dcn_modulated and dcn_groups are for deformable convolutions: set dcn_stages too.")


class Residual(nn.Module):
    """A block's shortcut, and the way it is joined with the residual branch, which the block adds.

    Source: arXiv:1512.03385, section 3; the pooled shortcut is arXiv:1812.01187, figure 2c.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        drop_path: float = 0.0,
        se: int = 0,
        pool: nn.Module | None = None,
        activation: str = "relu",
    ) -> None:
        """`se` is squeeze-and-excitation's reduction, 0 without; `pool` strides the shortcut instead of its
        convolution, and without one if the channels stay; `activation` follows the sum."""
        super().__init__()
        gate: list[nn.Module] = [SqueezeExcite(outputs, outputs // se)] if se else []
        if drop_path:
            gate.append(DropPath(drop_path))
        self.gate = nn.Sequential(*gate) if gate else None
        self.activation = activation
        self.shortcut: nn.Module = nn.Identity()
        if pool and inputs == outputs:
            self.shortcut = pool
        elif stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                pool or nn.Identity(), ConvNorm(inputs, outputs, stride=1 if pool else stride, activation="none")
            )

    def last(self, inputs: int, outputs: int, kernel: int) -> ConvNorm:
        """The last convolution; without a gate it does the sum and the activation too, so they can be fused with it."""
        return ConvNorm(inputs, outputs, kernel, activation="none" if self.gate else self.activation)

    def join(self, last: nn.Module, y: Tensor, x: Tensor) -> Tensor:
        """activation(gate(last(y)) + shortcut(x))."""
        shortcut = self.shortcut(x)  # [B, outputs, H / stride, W / stride]
        if self.gate is None:
            joined: Tensor = last(y, shortcut)
            return joined
        y = self.gate(last(y))
        y += shortcut
        return y.relu_() if self.activation == "relu" else y


class Basic(Residual):
    """Two 3x3 convolutions: [B, C, H, W] -> [B, width, H / stride, W / stride].

    Source: arXiv:1512.03385, figure 5, left.
    """

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int = 1,
        drop_path: float = 0.0,
        *,
        dilation: int = 1,
        pooled: bool = False,
        se: int = 0,
    ) -> None:
        """`pooled` is whether the shortcut is strided by a pool, as in the D variant."""
        pool = shortcut_pool(stride) if pooled else None
        super().__init__(inputs, width, stride, drop_path=drop_path, se=se, pool=pool)
        self.conv1 = ConvNorm(inputs, width, 3, stride, dilation=dilation)
        self.conv2 = self.last(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.conv2, self.conv1(x), x)


class Bottleneck(Residual):
    """1x1, grouped 3x3 with the stride, 1x1: [B, C, H, W] -> [B, 4 width, H / stride, W / stride].

    Source: arXiv:1512.03385, figure 5, right, with the stride where torchvision and timm have it;
    groups as in arXiv:1611.05431, figure 3c.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int = 1,
        drop_path: float = 0.0,
        *,
        groups: int = 1,
        group_width: int = 64,
        dilation: int = 1,
        pooled: bool = False,
        se: int = 0,
        stride_first: bool = False,
    ) -> None:
        """`group_width` is the channels of each group at 64 planes; `pooled` is whether the shortcut is strided by a
        pool, as in the D variant; with `stride_first` the stride is in the first 1x1, as in the original ResNets."""
        pool = shortcut_pool(stride) if pooled else None
        super().__init__(inputs, 4 * width, stride, drop_path=drop_path, se=se, pool=pool)
        inside = width * group_width // 64 * groups
        self.conv1 = ConvNorm(inputs, inside, stride=stride if stride_first else 1)
        self.conv2 = ConvNorm(inside, inside, 3, 1 if stride_first else stride, groups=groups, dilation=dilation)
        self.conv3 = self.last(inside, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.conv3, self.conv2(self.conv1(x)), x)


class ResidualNetwork(Backbone):
    """Stem, max pool and four stages: [B, channels, H, W] -> maps at strides 2, 4, 8, 16, 32."""

    first_conv = "stem.0.conv.weight"

    def __init__(
        self,
        config: ResidualConfig,
        depths: Sequence[int],
        deep: bool,
        block: Callable[..., nn.Module],
        expansion: int,
        output_stride: int = 32,
    ) -> None:
        """`block(inputs, width, stride, drop_path)` makes a block with `expansion * width` outputs; stages beyond
        `output_stride` are dilated instead, by its argument `dilation`."""
        super().__init__(config)
        if deep:
            widths = (config.channels, 32, 32, 64)
            self.stem = nn.Sequential(*(ConvNorm(widths[i], widths[i + 1], 3, 2 if i == 0 else 1) for i in range(3)))
        else:
            self.stem = nn.Sequential(ConvNorm(config.channels, 64, 7, 2))
        self.max_pool = nn.MaxPool2d(3, 2, 1)
        rates = iter(drop_path_rates(config.drop_path, sum(depths)))
        levels, inputs, dilation = [Level(2, 64)], 64, 1
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            width, blocks, before = 64 * 2**stage, [], dilation
            dilated = 4 * 2**stage > output_stride
            dilation *= 1 + dilated
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 and not dilated else 1
                # The first block reads a map that is not yet as sparse: its dilation is that of the stage before.
                spaced = {"dilation": d} if (d := before if i == 0 else dilation) > 1 else {}
                blocks.append(block(inputs, width, stride, next(rates), **spaced))
                inputs = width * expansion
            self.stages.append(nn.ModuleList(blocks))
            if config.dcn_stages[stage]:
                deform(self.stages[-1], config.dcn_groups, config.dcn_modulated)
            levels.append(Level(min(4 * 2**stage, output_stride), inputs))
        self.levels, self.width = tuple(levels), inputs
        if config.zero_init_residual:
            for module in self.modules():
                if isinstance(module, Residual):
                    *_, last = (child for child in module.children() if isinstance(child, ConvNorm))
                    assert isinstance(last.norm, nn.BatchNorm2d)
                    nn.init.zeros_(last.norm.weight)

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        x = self.stem(images)  # [B, 64, H / 2, W / 2]
        on_level(x)
        x = self.max_pool(x)
        for stage in self.stages:
            for block in stage.children():
                x = self.run_block(block, x)
            on_level(x)
        return x

    def pop_last_stage(self) -> nn.Module:
        last = self.stages[-1]
        self.stages, self.levels = self.stages[:-1], self.levels[:-1]
        return nn.Sequential(*last.children())

    def layers(self) -> list[nn.Module]:
        return [self.stem, *(block for stage in self.stages for block in stage.children())]


def shortcut_pool(stride: int) -> nn.Module | None:
    """The D variant's pool before the shortcut's convolution."""
    return nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else None


_LAYER = r"\.(conv2|convs\.\d)(_|\.conv_)offset\."  # the former in MMDetection's first releases, and in Detectron2
MMDET_OFFSET = rf"layer\d\.\d+{_LAYER}weight$"
"""The mark of MMDetection's deformable convolutions."""


def dcn_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The deformable convolutions of a checkpoint with MMDetection's or Detectron2's names."""
    pattern = rf"(layer|res)(\d)\.\d+{_LAYER}weight$"
    offsets = {m: tensor for name, tensor in state.items() if (m := re.search(pattern, name))}
    if not offsets:
        return {}
    stages = {int(m[2]) - (1 if m[1] == "layer" else 2) for m in offsets}
    channels = len(next(iter(offsets.values())))
    modulated = channels % 27 == 0  # for each group y, x and, if modulated, a factor of the nine places
    return {
        "dcn_stages": tuple(stage in stages for stage in range(4)),
        "dcn_modulated": modulated,
        "dcn_groups": max(1, channels // (27 if modulated else 18)),
    }


def mmdet_names(deep: bool, pooled: bool) -> weights.Rules:
    """MMDetection's and MMSegmentation's names, which differ in the deep stem: a Sequential to its last ReLU."""
    return (
        Rename(r"^backbone\.", ""),
        Rename(_LAYER, r".\1.offset."),
        Rename(r"^stem\.7\.", "bn1."),
        Rename(r"(^|\.)gn(\d)\.", r"\1bn\2."),  # GroupNorm
        Rename(r"^stem\.(\d)\.", r"conv1.\1."),
        *residual_names(deep, pooled),
    )


def residual_names(deep: bool, pooled: bool) -> weights.Rules:
    """timm's, torchvision's and the official repositories' names, which agree on what these families share.

    Args:
        deep: whether the stem has three convolutions.
        pooled: whether shortcuts are strided by a pool, as in the D variant.
    """
    conv, norm = (1, 2) if pooled else (0, 1)
    return (
        # The deep stem is a Sequential: conv, norm, ReLU, conv, norm, ReLU, conv; its last norm is bn1.
        Rename(r"^conv1\.([036])\.", lambda m: f"stem.{int(m[1]) // 3}.conv."),
        Rename(r"^conv1\.([14])\.", lambda m: f"stem.{int(m[1]) // 3}.norm."),
        Rename(r"^conv1\.", "stem.0.conv."),
        Rename(r"^bn1\.", "stem.2.norm." if deep else "stem.0.norm."),
        Rename(r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
        Rename(r"^(stages.*)\.conv(\d)\.", r"\1.conv\2.conv."),
        Rename(r"^(stages.*)\.bn(\d)\.", r"\1.conv\2.norm."),
        Rename(rf"\.downsample\.{conv}\.", ".shortcut.1.conv."),
        Rename(rf"\.downsample\.{norm}\.", ".shortcut.1.norm."),
        Rename(r"\.se\.fc1\.", ".gate.0.reduce."),
        Rename(r"\.se\.fc2\.", ".gate.0.expand."),
        Rename(r"^fc\.", "head."),
    )


def paddle_names() -> weights.Rules:
    """PaddleClas's names for all of these families but ResNet itself.

    Names: PaddleClas 2.5, ppcls/arch/backbone/model_zoo/resnext.py, se_resnext.py, se_resnet_vd.py, resnext_vd.py,
    res2net.py and res2net_vd.py. Keys are made of attributes and `add_sublayer`, not of the ParamAttr names.
    """
    return (
        Rename(r"^conv1_([123])\.", lambda m: f"stem.{int(m[1]) - 1}."),
        Rename(r"^conv1?\.", "stem.0."),
        Rename(r"^bb_(\d)_(\d+)\.", r"stages.\1.\2."),
        Rename(r"^(stages\.\d\.\d+)\.conv([012])\.", lambda m: f"{m[1]}.conv{int(m[2]) + 1}."),
        Rename(r"\.short\.", ".shortcut.1."),
        Rename(r"\.scale\.squeeze\.", ".gate.0.reduce."),
        Rename(r"\.scale\.excitation\.", ".gate.0.expand."),
        Rename(r"\._conv\.", ".conv."),
        Rename(r"\._batch_norm\.", ".norm."),
        *STATISTICS,
        Rename(r"^out\.", "head."),
        transposed(r"^head\.weight$|\.gate\.0\.\w+\.weight$"),
        Fix(r"\.gate\.0\.\w+\.weight$", lambda x: x[..., None, None], "a linear layer -> a 1x1 convolution"),
    )
