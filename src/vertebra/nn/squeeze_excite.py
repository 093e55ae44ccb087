"""Squeeze-and-excitation."""

import torch
from torch import Tensor, nn

from vertebra.nn.conv import ACTIVATIONS


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means: [B, C, H, W] -> same.

    Source: Squeeze-and-Excitation Networks, arXiv:1709.01507, section 3.
    """

    def __init__(self, channels: int, reduced: int, activation: str = "relu") -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = _linear(self.reduce, x.mean((2, 3)))  # [B, reduced]
        gate = _linear(self.expand, ACTIVATIONS[self.activation](y)).sigmoid_()[..., None, None]  # [B, C, 1, 1]
        return x * gate if x.requires_grad else x.mul_(gate)


def _linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution on single cells as the matrix product that it is, which is several times faster."""
    if torch.compiler.is_exporting():
        return conv(x[..., None, None]).flatten(1)  # NNCF knows a convolution's weight as such, and not its reshape
    return nn.functional.linear(x, conv.weight.flatten(1), conv.bias)
