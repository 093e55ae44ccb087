"""Decode heads of semantic segmentation: maps of a backbone -> logits of every cell of its finest map in use.

Shapes: B batch, C channels, h x w feature cells of a level, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from vertebra.nn import init
from vertebra.nn.conv import ConvNorm, ConvOfMaps
from vertebra.ops.pool import average_pool
from vertebra.structures import Level


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear: [B, C, h, w] -> [B, C, *size]."""
    if not torch.compiler.is_exporting() and tuple(x.shape[2:]) == tuple(size):  # which would fix the size of exports
        return x
    return interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


class Classifier(nn.Sequential):
    """Dropout of whole channels, then a 1x1 convolution: [B, C, h, w] -> [B, K, h, w]."""

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))
        init.fill([self[1]], init.normal)


class FCNHead(nn.Module):
    """Convolutions on maps that are resized to the finest of them and concatenated: -> [B, K, h, w] of the finest.

    On one map it is the head of FCN; with 1x1 convolutions on all maps, that of HRNetV2.

    Sources: Fully Convolutional Networks, arXiv:1411.4038; High-Resolution Representations, arXiv:1908.07919,
    section 3.4.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        last_only: bool = False,
        kernel: int = 3,
        num_convs: int = 1,
        concat_input: bool = False,
        bias: bool = False,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        """`levels` are those of the maps, of which `last_only` reads the last; with `concat_input` the input is
        concatenated with the convolved maps, and convolved once more; `bias` adds one to the convolutions, although a
        norm follows."""
        super().__init__()
        self.align_corners = align_corners
        self.first = len(levels) - 1 if last_only else 0
        inputs = sum(level.channels for level in levels[self.first :])
        self.convs = nn.Sequential(
            *(ConvNorm(inputs if i == 0 else channels, channels, kernel, bias=bias) for i in range(num_convs))
        )
        self.concat = ConvNorm(inputs + channels, channels, kernel, bias=bias) if concat_input else None
        self.classify = Classifier(channels if num_convs else inputs, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = fused(maps[self.first :], self.align_corners)
        y = self.convs(x)
        if self.concat is not None:
            y = self.concat(torch.cat([x, y], 1))
        logits: Tensor = self.classify(y)
        return logits


def fused(maps: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Maps resized to the size of the first and concatenated."""
    size = maps[0].shape[2:]
    return torch.cat([resize(x, size, align_corners) for x in maps], 1) if len(maps) > 1 else maps[0]


class PyramidPooling(nn.Module):
    """The map and its averages over grids of 1, 2, 3 and 6 cells a side, reduced to one map: [B, C, h, w] ->
    [B, channels, h, w].

    Source: Pyramid Scene Parsing Network, arXiv:1612.01105, section 3.2 and figure 3.
    """

    SCALES = (1, 2, 3, 6)

    def __init__(self, inputs: int, channels: int, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.pooled = nn.ModuleList(ConvNorm(inputs, channels) for _ in self.SCALES)
        self.reduce = ConvOfMaps(inputs + len(self.SCALES) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        averages = [conv(average_pool(x, scale)) for conv, scale in zip(self.pooled, self.SCALES, strict=True)]
        reduced: Tensor = self.reduce([x, *averages], x.shape[2:], self.align_corners)
        return reduced


class UperHead(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid down to the finest, all its levels fused.

    Source: Unified Perceptual Parsing (UperNet), arXiv:1807.10221, section 3.1 and figure 4.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.lateral = nn.ModuleList(ConvNorm(level.channels, channels) for level in levels[:-1])
        self.pooling = PyramidPooling(levels[-1].channels, channels, align_corners)
        self.output = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in levels[:-1])
        self.fuse = ConvOfMaps(len(levels) * channels, channels, 3)
        self.classify = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.pooling(maps[-1])
        pyramid = [x]
        for i in reversed(range(len(self.lateral))):
            x = self.lateral[i](maps[i]) + resize(x, maps[i].shape[2:], self.align_corners)
            pyramid.insert(0, self.output[i](x))
        logits: Tensor = self.classify(self.fuse(pyramid, pyramid[0].shape[2:], self.align_corners))
        return logits


class PanopticFPNHead(nn.Module):
    """Every level of a pyramid convolved and doubled until it has the size of the finest, and their sum.

    Source: Panoptic Feature Pyramid Networks ("Semantic FPN"), arXiv:1901.02446, section 3 and figure 3.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.scales = nn.ModuleList()
        for i, level in enumerate(levels):  # of stride 2^i times the finest's
            steps = (ConvNorm(level.channels if j == 0 else channels, channels, 3) for j in range(max(1, i)))
            self.scales.append(nn.ModuleList(steps))
        self.classify = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for i, (x, steps) in enumerate(zip(maps, self.scales, strict=True)):
            for conv in steps.children():
                x = conv(x)
                if i:
                    x = resize(x, [2 * side for side in x.shape[2:]], self.align_corners)
            total = x if total is None else total + resize(x, total.shape[2:], self.align_corners)
        logits: Tensor = self.classify(total)
        return logits


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, dilated 3x3 and image pooling, concatenated and reduced: [B, C, h, w] ->
    [B, channels, h, w].

    Source: Rethinking Atrous Convolution (DeepLabV3), arXiv:1706.05587, section 3.3 and figure 5.
    """

    def __init__(self, inputs: int, channels: int, rates: Sequence[int], *, align_corners: bool = False) -> None:
        """`rates` are the dilations, in cells."""
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            [ConvNorm(inputs, channels), *(ConvNorm(inputs, channels, 3, dilation=rate) for rate in rates)]
        )
        self.pooled = ConvNorm(inputs, channels)
        self.reduce = ConvNorm((len(rates) + 2) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        image = self.pooled(adaptive_avg_pool2d(x, 1))
        maps = [*(branch(x) for branch in self.branches), resize(image, x.shape[2:], self.align_corners)]
        reduced: Tensor = self.reduce(torch.cat(maps, 1))
        return reduced


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling and a 3x3 convolution on the coarsest map.

    Source: arXiv:1706.05587, section 3.3.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        rates: Sequence[int],
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(levels[-1].channels, channels, rates, align_corners=align_corners)
        self.conv = ConvNorm(channels, channels, 3)
        self.classify = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classify(self.conv(self.aspp(maps[-1])))
        return logits


class DeepLabV3PlusHead(nn.Module):
    """The pooled coarsest map, joined with the finest by two 3x3 convolutions.

    Source: Encoder-Decoder with Atrous Separable Convolution (DeepLabV3+), arXiv:1802.02611, section 3.1 and figure 2.
    """

    FINE = 48
    """Channels that the finest map is reduced to: section 4.1, table 1."""

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        rates: Sequence[int],
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.aspp = ASPP(levels[-1].channels, channels, rates, align_corners=align_corners)
        self.reduce = ConvNorm(levels[0].channels, self.FINE)
        self.convs = nn.ModuleList([ConvOfMaps(channels + self.FINE, channels, 3), ConvNorm(channels, channels, 3)])
        self.classify = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine = self.reduce(maps[0])
        x = self.convs[0]([self.aspp(maps[-1]), fine], fine.shape[2:], self.align_corners)
        logits: Tensor = self.classify(self.convs[1](x))
        return logits
