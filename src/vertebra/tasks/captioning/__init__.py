"""Captioning: a sentence for an image, and where the model looks for each word."""

DEFAULT = "soft_attention"
