"""Pose: the keypoints of objects whose boxes are given, each found in a heatmap over its object."""

DEFAULT = "simple_baseline"
"""SimpleBaseline, which over HRNets is HRNet's own head."""
