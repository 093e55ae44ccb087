"""Res2Net's hierarchical convolution."""

import torch
from torch import Tensor, nn

from vertebra.nn.conv import ConvNorm


class Res2Conv(nn.Module):
    """Hierarchical 3x3 convolutions on `scale` groups of channels: [B, C, H, W] -> [B, C, H / stride, W / stride].

    The output of a group is added to the input of the next. The last group passes unchanged. In the first block of a
    stage nothing is added, and the last group is average-pooled (zeros of the padding counted).

    Source: Res2Net, arXiv:1904.01169, section 3.1 and figure 2b, with the first blocks as in the authors' code.
    """

    def __init__(
        self,
        width: int,
        scale: int,
        stride: int = 1,
        *,
        first: bool,
        groups: int = 1,
        apart: bool = True,
        pooled: bool = True,
        count_include_pad: bool = True,
    ) -> None:
        """`width` is the channels of one group: C = scale * width. Without `apart`, a first block of stride 1 is like
        any other; without `pooled`, a first block of stride 1 does not pool its last group; `count_include_pad` is
        whether the zeros of the padding count. PaddleClas sets `apart` and `count_include_pad` to False, MMDetection
        `pooled`."""
        super().__init__()
        self.width, self.first, self.stride = width, first, stride
        self.apart, self.pooled = apart, pooled
        self.convs = nn.ModuleList(ConvNorm(width, width, 3, stride, groups) for _ in range(scale - 1))
        self.pool = nn.AvgPool2d(3, stride, 1, count_include_pad=count_include_pad) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first = self.first and (self.apart or self.stride > 1)
        pool = first and (self.pooled or self.stride > 1)
        *groups, last = x.split(self.width, 1)
        outputs: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            group = groups[i] if first or i == 0 else groups[i] + outputs[-1]
            outputs.append(conv(group))
        return torch.cat((*outputs, self.pool(last) if pool else last), 1)
