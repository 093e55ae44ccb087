"""Heads that detection, instance segmentation and keypoints share: proposals, boxes, masks, keypoints."""

from vertebra.heads.roi import Detections, Samples

__all__ = ["Detections", "Samples"]
