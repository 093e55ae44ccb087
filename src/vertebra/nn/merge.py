"""Split attention over branches."""

import torch
from torch import Tensor, nn

from vertebra.nn.mlp import LinearGelu


class Merge(nn.Module):
    """The sum of three branches, weighted per channel by the means of all three: 3 x [B, H, W, C] -> [B, H, W, C].

    Source: Vision Permutator, arXiv:2106.12368, section 3.2 ("Weighted Permute-MLP"), after ResNeSt, arXiv:2004.08955.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = LinearGelu(width, width // 4), nn.Linear(width // 4, 3 * width)

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        mean = first.mean((1, 2)) + second.mean((1, 2)) + third.mean((1, 2))  # [B, C]
        shares = self.expand(self.reduce(mean))  # [B, 3C], the three of a channel side by side
        parts = shares.unflatten(1, (-1, 3)).softmax(2).type_as(first)  # autocast computes a softmax in float32
        a, b, c = parts[:, None, None].unbind(-1)  # [B, 1, 1, C] each
        return torch.addcmul(torch.addcmul(first * a, second, b), third, c)
