"""What detection, instance segmentation and keypoints share: proposals, and what is said of regions."""

from vertebra.heads.regions import Detections, Samples

__all__ = ["Detections", "Samples"]
