"""The multi-layer perceptron of transformers and their kin."""

from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers with GELU between, on the last dimension: [..., C] -> same."""

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        """`approximate` is GELU's form, `none` (exact) or `tanh`."""
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(nn.functional.gelu(self.expand(x), approximate=self.approximate))
        return y

    def extra_repr(self) -> str:
        return f"approximate={self.approximate}"
