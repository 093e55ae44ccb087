"""The multi-layer perceptron of transformers and similar networks."""

from torch import Tensor, nn


class LinearGelu(nn.Linear):
    """A linear layer and GELU, which inference fuses: [..., C] -> [..., C']."""

    def __init__(self, inputs: int, outputs: int, approximate: str = "none") -> None:
        """`approximate` is GELU's form, `none` (exact) or `tanh`."""
        super().__init__(inputs, outputs)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(super().forward(x), approximate=self.approximate)


class Mlp(nn.Module):
    """Two linear layers with GELU between, on the last dimension: [..., C] -> same."""

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        """`approximate` as LinearGelu's."""
        super().__init__()
        self.expand = LinearGelu(width, hidden, approximate)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.expand(x))
        return y
