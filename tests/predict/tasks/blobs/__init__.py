"""Regions of one brightness on a black background: a task that needs no training."""

DEFAULT = "regions"
