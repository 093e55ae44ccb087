"""Detection: a box and a class for every object."""

from vertebra.tasks.detection.config import Config
from vertebra.tasks.detection.faster_rcnn import FasterRCNN
from vertebra.tasks.detection.retinanet import RetinaNet
from vertebra.tasks.region import RECIPE

TASK = FasterRCNN
METHODS = {"retinanet": RetinaNet}

__all__ = ["METHODS", "RECIPE", "TASK", "Config", "FasterRCNN", "RetinaNet"]
