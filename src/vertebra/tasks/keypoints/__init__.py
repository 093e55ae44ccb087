"""Keypoints: a box for every object, and the location of its keypoints."""

DEFAULT = "keypoint_rcnn"
