"""Bounding boxes of objects."""

from vertebra.kinds.objects import Objects


class Boxes(Objects):
    """A class, a score and a box per object."""

    target_field = "boxes"
    description = "boxes"
    priority = 2


KIND = Boxes()
