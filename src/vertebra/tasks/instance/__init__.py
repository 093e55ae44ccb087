"""Instance segmentation: a mask, a box and a class for every object."""

from vertebra.tasks.instance.mask_rcnn import Config, MaskRCNN
from vertebra.tasks.region import RECIPE

TASK = MaskRCNN

__all__ = ["RECIPE", "TASK", "Config", "MaskRCNN"]
