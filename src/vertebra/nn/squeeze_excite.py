"""Squeeze-and-excitation."""

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
        y = ACTIVATIONS[self.activation](self.reduce(x.mean((2, 3), keepdim=True)))  # [B, reduced, 1, 1]
        return x * self.expand(y).sigmoid_()
