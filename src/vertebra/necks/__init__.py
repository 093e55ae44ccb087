"""From a backbone's maps to the pyramid that a task wants; described by `levels`, as a backbone is."""

from vertebra.necks.fpn import FPN, Coarser
from vertebra.necks.hrfpn import HRFPN
from vertebra.necks.one_map import OneMap
from vertebra.necks.simple_pyramid import SimplePyramid

__all__ = ["FPN", "HRFPN", "Coarser", "OneMap", "SimplePyramid"]
