"""A pyramid from the one map of a plain backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vertebra.errors import VertebraError
from vertebra.structures import Level


class Norm(nn.Module):
    """Layer norm over the channels of every cell: [B, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class SimplePyramid(nn.Module):
    """Up to four maps from the last of a backbone, by deconvolution and pooling: list of [B, C, h, w] -> the same.

    Their strides are the backbone's times powers of two: 4, 8, 16, 32 for patches of 16 or 32 pixels; 7, 14, 28, 56
    for patches of 14 and 7.

    Source: Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), arXiv:2203.16527, section 3.
    """

    def __init__(self, levels: Sequence[Level], channels: int = 256, *, skip: int = 0) -> None:
        """`levels` are the backbone's; `channels` those of the pyramid; the `skip` finest maps are not made.

        Raises:
            VertebraError: if the last level's stride cannot be halved down to one of 4 to 7.
        """
        super().__init__()
        stride, width = levels[-1].stride, levels[-1].channels
        finest = stride
        while finest % 2 == 0 and finest >= 8:
            finest //= 2
        if not 4 <= finest < 8:
            raise VertebraError(f"a map of stride {stride} makes no pyramid: it is not 4 to 7 times a power of two.")
        self.levels = tuple(Level(finest * 2**i, channels) for i in range(skip, 4))
        self.maps = nn.ModuleList(_resample(stride, level.stride, width, channels) for level in self.levels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [make(maps[-1]) for make in self.maps]


def _resample(old: int, new: int, width: int, channels: int) -> nn.Sequential:
    """From stride `old` to `new`, then to `channels` by a 1x1 and a 3x3 convolution."""
    steps: list[nn.Module] = []
    while new < old:  # twice as fine and half as wide with each
        steps.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
        width, old = width // 2, old // 2
        if new < old:
            steps += [Norm(width), nn.GELU()]
    if new > old:
        steps.append(nn.MaxPool2d(new // old, new // old, ceil_mode=True))
    return nn.Sequential(
        *steps,
        nn.Conv2d(width, channels, 1, bias=False),
        Norm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        Norm(channels),
    )
