"""Stochastic depth."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for a whole sample with probability `rate` while training: any [B, ...] -> same.

    Source: Deep Networks with Stochastic Depth, arXiv:1603.09382, section 3.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        mask = x.new_empty([len(x)] + [1] * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * mask.div_(1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """The linear decay rule: 0 at the first of `blocks`, `last` at the last (section 3 of the same paper)."""
    return [last * i / max(1, blocks - 1) for i in range(blocks)]
