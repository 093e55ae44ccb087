"""Augmentation of patches, whose last channel is the coarse mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torchvision.transforms import v2

from vertebra.data.augment import happens
from vertebra.data.geometry import Example, flip_horizontal, flip_vertical, resize, rotate90
from vertebra.errors import in_range
from vertebra.images import normalise
from vertebra.structures import Preprocess, Target


@dataclass
class PatchesAugment:
    """Random changes of training patches; 0 turns a step off."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate90: float = 0.0
    """Probability of a rotation by 90, 180 or 270 degrees, for images without an up; 0.75 makes all four orientations
    equally likely."""
    colour: float = 0.3
    """Maximum relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        for field in fields(self):
            in_range(f"augment.{field.name}", getattr(self, field.name), 0, 1)


class PatchesTransform:
    """Example -> ([C + 1, h, w] float32, normalised, and Target in its pixels), augmented with torch's random
    numbers."""

    def __init__(self, augment: PatchesAugment, preprocess: Preprocess) -> None:
        self.augment = augment
        self.preprocess = preprocess
        change, coloured = augment.colour, preprocess.channels == 4
        self.colour = v2.ColorJitter(change, change, change if coloured else 0.0) if change else None

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        augment = self.augment
        if happens(augment.rotate90):
            example = rotate90(example, 1 + int(torch.randint(3, ())))
        if happens(augment.flip):
            example = flip_horizontal(example)
        if happens(augment.flip_vertical):
            example = flip_vertical(example)
        if self.colour is not None:
            example = replace(example, image=torch.cat((self.colour(example.image[:-1]), example.image[-1:])))
        example = resize(example, self.preprocess.size, self.preprocess)
        return normalise(example.image, self.preprocess), replace(example.target, masks=None)
