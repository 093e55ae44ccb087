"""Semantic segmentation: a class for every pixel."""

DEFAULT = "upernet"
