"""Multi-head self-attention."""

from torch import Tensor, nn

from vertebra.errors import VertebraError


def check_heads(width: int, heads: int) -> None:
    """Raises if `width` channels cannot be split among the heads."""
    if heads < 1 or width % heads:
        raise VertebraError(f"heads is {heads}; it must be a divisor of the width {width}.")


class SelfAttention(nn.Module):
    """Scaled dot-product attention of a sequence to itself: [B, N, C] -> same.

    Source: Attention Is All You Need, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._split(x)
        y = nn.functional.scaled_dot_product_attention(query, key, value)  # [B, heads, N, C / heads]
        projected: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return projected

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights, rows summing to 1: [B, N, C] -> [B, heads, N, N]."""
        query, key, _ = self._split(x)
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, each [B, heads, N, C / heads]."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
