"""Salient object detection: for every pixel whether it belongs to the object that stands out."""

DEFAULT = "upernet"
