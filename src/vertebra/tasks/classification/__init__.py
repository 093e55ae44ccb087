"""Classification: one class for the whole image."""

DEFAULT = "linear"
