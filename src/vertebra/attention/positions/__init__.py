"""Positions: what tells a mechanism, which by itself sees a set, the order of a sequence or the cells of a map."""

from vertebra.attention.positions.learned import Learned, Learned2d
from vertebra.attention.positions.relative_bias import RelativeBias
from vertebra.attention.positions.rotary import Rotary
from vertebra.attention.positions.sinusoidal import Sinusoidal

__all__ = ["Learned", "Learned2d", "RelativeBias", "Rotary", "Sinusoidal"]
