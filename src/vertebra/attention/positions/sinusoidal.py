"""At which position is an element, in a sequence of any length? Waves of different lengths tell.

    PE(p, 2i) = sin(p / 10000^(2i / C))        PE(p, 2i + 1) = cos(p / 10000^(2i / C))

p: position, from 0; C: width; i: 0 .. C / 2 - 1. PE(p + k) is a rotation of PE(p) that depends on k alone.

Source: Attention Is All You Need, arXiv:1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError

BASE = 10000.0
"""The longest wave is 2 pi times as long, in positions."""


class Sinusoidal(nn.Module):
    """Adds the encoding of each position: [..., N, C] -> same, C even.

    Source: arXiv:1706.03762, section 3.5.
    """

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """`start` is the position of the first element."""
        angles = wave_angles(x.shape[-2], x.shape[-1], start, x.device)
        return x + torch.stack((angles.sin(), angles.cos()), -1).flatten(-2).to(x.dtype)


def wave_angles(length: int, width: int, start: int = 0, device: torch.device | None = None) -> Tensor:
    """p / 10000^(2i / width), in radians: [length, width / 2] float32, the positions p beginning at `start`.

    Raises:
        VertebraError: if `width` is odd.
    """
    if width % 2:
        raise VertebraError(
            f"a sequence of {width} channels has no sine and cosine for each wave; the width must be even."
        )
    position = torch.arange(start, start + length, device=device, dtype=torch.float32)
    waves = BASE ** (torch.arange(0, width, 2, device=device, dtype=torch.float32) / -width)
    return position[:, None] * waves
