"""Augmentation of images together with their label maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from vertebra.data.augment import happens, uniform
from vertebra.data.geometry import Example, crop, flip_horizontal, flip_vertical, resize, rotate90
from vertebra.errors import VertebraError, in_range, shown
from vertebra.images import frame_of, normalise
from vertebra.structures import IGNORED, Preprocess, Target

TRIES = 10
"""Crops that are drawn at most until one is not mostly of one class, as in MMSegmentation."""


@dataclass
class PixelsAugment:
    """Random changes of training images and their label maps; 0 turns a step off."""

    scales: tuple[float, float] = (0.5, 2.0)
    """Range of a factor on the size of the image in the input; what is then too large is cropped."""
    crop: int = 0
    """Side in input pixels of square crops; 0 crops to the size that the whole image has in evaluation."""
    cat_max_ratio: float = 0.75
    """Crops with a larger share of one class are drawn again, up to ten times; 1 takes every crop."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate90: float = 0.0
    """Probability of a rotation by 90, 180 or 270 degrees, for images without an up; 0.75 makes all four orientations
    equally likely."""
    colour: float = 0.3
    """Maximum relative change of brightness, contrast and saturation."""
    grey: float = 0.0
    """Probability that colours are removed."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""

    def __post_init__(self) -> None:
        low, high = self.scales
        if not (0 < low <= high <= 10 or low == high == 0):
            raise VertebraError(
                f"augment.scales is [{low:g}, {high:g}]; it must go from a number above 0 to one no smaller, up to 10, "
                "such as [0.5, 2], or be [0, 0]."
            )
        if self.crop and not 16 <= self.crop <= 10_000:
            raise VertebraError(f"augment.crop is {shown(self.crop)}; it must be 16 to 10,000 pixels, or 0.")
        for name in ("cat_max_ratio", "flip", "flip_vertical", "rotate90", "colour", "grey", "blur"):
            in_range(f"augment.{name}", getattr(self, name), 0, 1)


class PixelsTransform:
    """Example -> ([C, h, w] float32, Target in its pixels), augmented with torch's random numbers and normalised."""

    def __init__(self, augment: PixelsAugment, preprocess: Preprocess) -> None:
        self.augment = augment
        self.preprocess = preprocess
        change, coloured = augment.colour, preprocess.channels == 3
        self.colour = v2.ColorJitter(change, change, change if coloured else 0.0) if change else None
        self.blur = v2.GaussianBlur(5, (0.1, 2.0))

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        augment = self.augment
        if happens(augment.rotate90):
            example = rotate90(example, 1 + int(torch.randint(3, ())))
        whole = frame_of(example.size, self.preprocess).resized
        limit = (augment.crop, augment.crop) if augment.crop else whole
        factor = uniform(*augment.scales) if augment.scales[1] else 1.0
        scaled = tuple(max(1, round(side * factor)) for side in whole)
        size = min(scaled[0], limit[0]), min(scaled[1], limit[1])
        seen = tuple(
            max(1, round(old * new / large)) for old, new, large in zip(example.size, size, scaled, strict=True)
        )
        example = resize(self._cropped(example, *seen), size, self.preprocess)
        if happens(augment.flip):
            example = flip_horizontal(example)
        if happens(augment.flip_vertical):
            example = flip_vertical(example)
        if self.colour is not None:
            example.image = self.colour(example.image)
        if len(example.image) == 3 and happens(augment.grey):
            example.image = v2.functional.rgb_to_grayscale(example.image, 3)
        if happens(augment.blur):
            example.image = self.blur(example.image)
        return normalise(example.image, self.preprocess), example.target

    def _cropped(self, example: Example, height: int, width: int) -> Example:
        """A random part of (height, width) of the example; drawn again while most of it is of one class."""
        if (height, width) == example.size:
            return example
        for _ in range(TRIES):
            top, left = (int(torch.randint(old - new + 1, ())) for old, new in zip(example.size, (height, width)))
            part = crop(example, top, left, height, width)
            if self.augment.cat_max_ratio == 1 or part.target.semantic is None:
                break
            labels = part.target.semantic[part.target.semantic != IGNORED]
            if len(labels) and int(torch.bincount(labels.int()).max()) <= self.augment.cat_max_ratio * len(labels):
                break
        return part
