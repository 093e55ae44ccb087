"""Attention mechanisms, on sequences and on windows, and their attention maps."""

from vertebra.attention.maps import maps
from vertebra.attention.multi_head import SelfAttention
from vertebra.attention.window import WindowAttention

__all__ = ["SelfAttention", "WindowAttention", "maps"]
