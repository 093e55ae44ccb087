"""Res2Net's hierarchical convolution."""

import torch
from torch import Tensor, nn

from vertebra.nn.conv import ConvNorm


class Res2Conv(nn.Module):
    """3x3 convolutions on `scale` groups in turn, each also seeing the group before: [B, C, H, W] -> [B, C, H', W'].

    The last group passes as it is, average-pooled (zeros of the padding counted) in the first block of a stage, whose
    groups do not see each other either.

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
        """`width` is the channels of one group: C = scale * width. Without `apart`, a first block of stride 1 is as any
        other; without `pooled`, one has its groups apart and passes the last as it is; `count_include_pad` is whether
        the zeros of the padding count. PaddleClas has neither the first nor the last, MMDetection not the second."""
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
            seen = groups[i] if first or i == 0 else groups[i] + outputs[-1]
            outputs.append(conv(seen))
        return torch.cat((*outputs, self.pool(last) if pool else last), 1)
