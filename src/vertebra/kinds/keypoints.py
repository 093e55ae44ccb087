"""Keypoints of objects."""

from __future__ import annotations

from vertebra.kinds.keypoint_objects import KeypointObjects


class Keypoints(KeypointObjects):
    """Detections with keypoints."""

    description = "keypoints"
    priority = 4


KIND = Keypoints()
