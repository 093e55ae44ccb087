"""Instance segmentation: a mask, a box and a class for every object."""

DEFAULT = "mask_rcnn"
