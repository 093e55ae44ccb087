"""Necks: from a backbone's maps to the pyramid of a task; described by `levels`, as a backbone is."""

from vertebra.necks.fpn import FPN, ExtraLevels
from vertebra.necks.fused_map import FusedMap
from vertebra.necks.hrfpn import HRFPN
from vertebra.necks.simple_pyramid import SimplePyramid

__all__ = ["FPN", "HRFPN", "ExtraLevels", "FusedMap", "SimplePyramid"]
