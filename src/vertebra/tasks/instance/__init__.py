"""Instance segmentation: a mask, a box and a class for every object."""

from vertebra.tasks.instance.mask_rcnn import Config, MaskRCNN

TASK = MaskRCNN

__all__ = ["TASK", "Config", "MaskRCNN"]
