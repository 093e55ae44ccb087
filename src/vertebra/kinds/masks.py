"""Instance masks."""

from vertebra.kinds.objects import Objects


class InstanceMasks(Objects):
    """A class, a score, a box and a mask per object."""

    target_field = "masks"
    description = "masks"
    priority = 3
    options = Objects.options | {"refine"}


KIND = InstanceMasks()
