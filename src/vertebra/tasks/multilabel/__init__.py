"""Multi-label classification: any number of classes, or tags, for the whole image."""

DEFAULT = "linear"
