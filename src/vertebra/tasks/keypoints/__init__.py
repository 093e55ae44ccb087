"""Keypoints: a box for every object, and where in it its keypoints are."""

from vertebra.tasks.keypoints.keypoint_rcnn import Config, KeypointRCNN

TASK = KeypointRCNN

__all__ = ["TASK", "Config", "KeypointRCNN"]
