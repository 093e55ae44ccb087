"""Augmentation of images together with their objects and label maps.

The geometry is that of `data.geometry`, which moves all that a target holds; colours are changed by torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vertebra.data.augment import happens, uniform
from vertebra.data.geometry import (
    Example,
    clean_target,
    crop,
    flip_horizontal,
    flip_vertical,
    join,
    paste,
    resize,
    rotate90,
)
from vertebra.errors import VertebraError, in_range
from vertebra.images import frame_of, normalise
from vertebra.structures import KeypointSchema, Preprocess, Target


@dataclass
class ObjectsAugment:
    """Random changes of training images and their objects; 0 turns a step off."""

    scales: tuple[float, float] = (0.8, 1.0)
    """Range of a factor on the size of the image in the input; at most 1 with `fit`, without effect with `squash`."""
    jitter: tuple[float, float] = (0.0, 0.0)
    """Large-scale jitter, such as [0.1, 2.0], in place of `scales`: the image is scaled by a factor from this range,
    then cropped or padded to its size in evaluation."""
    crop: float = 0.0
    """Minimum share of each side that a random crop keeps; it shows at least one object. 0 and 1 do not crop."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate90: float = 0.0
    """Probability of a rotation by 90, 180 or 270 degrees, for images without an up, such as micrographs; 0.75 makes
    all four orientations equally likely."""
    colour: float = 0.2
    """Maximum relative change of brightness, contrast and saturation, in 0..1."""
    copy_paste: float = 0.0
    """Probability that objects of another image are cut out by their masks and pasted in; needs masks."""
    mosaic: float = 0.0
    """Probability that the image is joined with three others."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("scales", "jitter"):
                low, high = value
                if not (0.01 <= low <= high <= 100 or low == high == 0):
                    raise VertebraError(
                        f"augment.{field.name} is [{low:g}, {high:g}]; it must go from a number above 0 to one no "
                        "smaller, such as [0.5, 1.5], both in 0.01..100, or be [0, 0]."
                    )
            else:
                in_range(f"augment.{field.name}", value, 0, 1)


class ObjectsTransform:
    """Example -> ([C, h, w] float32, Target in its pixels), augmented with torch's random numbers and normalised.

    h and w are those that `images.frame_of` gives the image, scaled; padding is left to `images.pad_batch`. Crops come
    before resizing, and colours are changed where the image has fewer pixels.
    """

    def __init__(
        self, augment: ObjectsAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None
    ) -> None:
        from torchvision.transforms import v2  # a second of imports, for training alone

        self.augment = augment
        self.preprocess = preprocess
        self.keypoints = keypoints
        change, saturated = augment.colour, preprocess.channels == 3
        self.colour = v2.ColorJitter(change, change, change if saturated else 0.0) if change else None

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        """The example augmented; `another` draws a further one of the dataset with torch's random numbers."""
        augment = self.augment
        if happens(augment.mosaic):
            example = mosaic([example, another(), another(), another()], self.preprocess)
        if example.target.masks is not None and happens(augment.copy_paste):
            example = paste(example, self._donor(another(), example.size))
        if 0 < augment.crop < 1:
            height, width = (max(1, round(side * uniform(augment.crop, 1.0))) for side in example.size)
            example = random_crop(example, height, width)
        if happens(augment.rotate90):
            example = rotate90(example, 1 + int(torch.randint(3, ())))
        example, size = self._scaled(example)
        if happens(augment.flip):
            example = flip_horizontal(example, self.keypoints)
        if happens(augment.flip_vertical):
            example = flip_vertical(example, self.keypoints)
        larger = size[0] * size[1] > example.size[0] * example.size[1]
        if self.colour is not None and larger:
            example.image = self.colour(example.image)
        example = resize(example, size, self.preprocess)
        if self.colour is not None and not larger:
            example.image = self.colour(example.image)
        return normalise(example.image, self.preprocess), clean_target(example)

    def _scaled(self, example: Example) -> tuple[Example, tuple[int, int]]:
        """The part of the example that the input will show, and (height, width) of that part in the input."""
        augment, preprocess = self.augment, self.preprocess
        whole = frame_of(example.size, preprocess).resized
        if preprocess.resize == "squash":
            return example, whole
        if augment.jitter[1]:
            limit = preprocess.size if preprocess.resize == "fit" else whole
            return _zoomed(example, uniform(*augment.jitter), whole, limit)
        factor = uniform(*augment.scales) if augment.scales[1] else 1.0
        factor = min(1.0, factor) if preprocess.resize == "fit" else factor
        height, width = (max(1, round(side * factor)) for side in preprocess.size)
        return example, frame_of(example.size, replace(preprocess, size=(height, width))).resized

    def _donor(self, donor: Example, size: tuple[int, int]) -> Example:
        """Some of the objects of another image, flipped, scaled and placed at random on a canvas of `size`."""
        augment = self.augment
        donor = donor.take((torch.rand(len(donor.boxes)) < 0.5) & ~donor.crowd)
        if happens(augment.flip):
            donor = flip_horizontal(donor, self.keypoints)
        low, high = augment.jitter if augment.jitter[1] else augment.scales if augment.scales[1] else (1.0, 1.0)
        whole = frame_of(donor.size, replace(self.preprocess, resize="fit", size=size)).resized
        donor, scaled = _zoomed(donor, uniform(low, high), whole, size)
        top, left = (int(torch.randint(room - side + 1, ())) for room, side in zip(size, scaled))
        return crop(resize(donor, scaled, self.preprocess), -top, -left, *size)


def mosaic(examples: Sequence[Example], preprocess: Preprocess) -> Example:
    """Four examples joined at a random point of a canvas of the first one's size, each cropped to fill its corner.

    Source: YOLOv4, arXiv:2004.10934, section 3.3.
    """
    size = examples[0].size
    y, x = (min(side - 1, max(1, round(side * uniform(0.25, 0.75)))) if side > 1 else 0 for side in size)
    corners = [(0, 0, y, x), (0, x, y, size[1] - x), (y, 0, size[0] - y, x), (y, x, size[0] - y, size[1] - x)]
    tiles = []
    for example, (top, left, height, width) in zip(examples, corners, strict=True):
        if height and width:
            scale = max(height / example.size[0], width / example.size[1])
            seen = (min(side, max(1, round(new / scale))) for side, new in zip(example.size, (height, width)))
            tiles.append((top, left, resize(random_crop(example, *seen), (height, width), preprocess)))
    return join(tiles, size)


def random_crop(example: Example, height: int, width: int) -> Example:
    """A random part of (height, width) of the image; if there are objects, the centre of one lies in it."""
    if (height, width) == example.size:
        return example
    low, high = [0, 0], [example.size[0] - height, example.size[1] - width]
    objects = example.boxes[~example.crowd]
    if len(objects):
        box = objects[int(torch.randint(len(objects), ()))]
        for axis, side in enumerate((height, width)):
            centre = int((box[1 - axis] + box[3 - axis]) / 2)
            low[axis] = min(high[axis], max(0, centre - side + 1))
            high[axis] = max(low[axis], min(high[axis], centre))
    top, left = (int(torch.randint(first, last + 1, ())) for first, last in zip(low, high))
    return crop(example, top, left, height, width)


def _zoomed(
    example: Example, factor: float, whole: tuple[int, int], limit: tuple[int, int]
) -> tuple[Example, tuple[int, int]]:
    """An example that is to be scaled to `factor` times (height, width) `whole`, cropped to what fits into `limit`."""
    height, width = (max(1, round(side * factor)) for side in whole)
    seen = (max(1, round(old * min(1.0, room / new))) for old, room, new in zip(example.size, limit, (height, width)))
    return random_crop(example, *seen), (min(height, limit[0]), min(width, limit[1]))
