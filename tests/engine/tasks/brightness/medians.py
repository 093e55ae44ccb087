"""A second method of the same task, with an option of its own."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.tasks.brightness import means


@dataclass(frozen=True)
class Config(means.Config):
    """The model."""

    depth: int = 1
    """Not an option of the other method."""


class MedianColour(means.MeanColour):
    """[B, C, H, W] -> logits [B, num_classes]."""


MODEL = MedianColour
PAPER = "a test"
RECIPE: dict = {}
SOURCES: dict = {}
