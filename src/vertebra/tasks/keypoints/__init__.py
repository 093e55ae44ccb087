"""Keypoints: a box for every object, and where in it its keypoints are."""

from vertebra.tasks.keypoints.keypoint_rcnn import Config, KeypointRCNN
from vertebra.tasks.region import RECIPE

TASK = KeypointRCNN

__all__ = ["RECIPE", "TASK", "Config", "KeypointRCNN"]
