"""Augmentation of single pictures, of batches, and of pictures together with their objects.

torchvision's v2 transforms do the work; what moves objects is in `scenes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torchvision.transforms import v2

from vertebra import pictures
from vertebra.data import scenes
from vertebra.data.scenes import Scene
from vertebra.errors import VertebraError, in_range
from vertebra.structures import Points, Preprocess, Target


@dataclass
class Augment:
    """What is done at random to training pictures; 0 switches a step off."""

    crop: float = 0.35
    """Least share of the picture's area that a random crop keeps; 1 takes the whole picture as in evaluation."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate: float = 0.0
    """Largest rotation either way, in degrees."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    randaugment: int = 0
    """Magnitude of RandAugment's two operations, 1 to 30."""
    erase: float = 0.0
    """Probability of random erasing."""
    mixup: float = 0.0
    """Alpha of mixup: two pictures of a batch are blended, and their labels with them."""
    cutmix: float = 0.0
    """Alpha of CutMix; with mixup too, each batch takes one of the two."""

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "flip_vertical", "erase"):
            in_range(f"augment.{name}", getattr(self, name), 0, 1)
        for name in ("rotate", "colour", "mixup", "cutmix"):
            in_range(f"augment.{name}", getattr(self, name), 0)
        in_range("augment.randaugment", self.randaugment, 0, 30)


class TrainTransform:
    """[C, H, W] uint8 -> [C, *size] float32, augmented with torch's random numbers and normalised."""

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        a, steps = augment, []
        if a.crop < 1.0:
            interpolation = v2.InterpolationMode(preprocess.interpolation)
            ratio = (3 / 4, 4 / 3)
            steps.append(v2.RandomResizedCrop(preprocess.size, (a.crop, 1.0), ratio, interpolation, antialias=True))
        else:
            steps.append(_Resize(preprocess))
        if a.flip:
            steps.append(v2.RandomHorizontalFlip(a.flip))
        if a.flip_vertical:
            steps.append(v2.RandomVerticalFlip(a.flip_vertical))
        fill = [round(255 * m) for m in preprocess.mean]
        if a.rotate:
            steps.append(v2.RandomRotation(a.rotate, v2.InterpolationMode.BILINEAR, fill=fill))
        if a.randaugment:
            steps.append(v2.RandAugment(2, a.randaugment, fill=fill))
        if a.colour:
            saturation = a.colour if preprocess.channels == 3 else 0.0
            steps.append(v2.ColorJitter(a.colour, a.colour, saturation))
        self.picture = v2.Compose(steps)
        self.erase = v2.RandomErasing(a.erase) if a.erase else None

    def __call__(self, picture: Tensor) -> Tensor:
        image = pictures.normalise(self.picture(picture), self.preprocess)
        return self.erase(image) if self.erase is not None else image


class _Resize(torch.nn.Module):
    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, picture: Tensor) -> Tensor:
        return pictures.resize(picture, self.preprocess)


def batch_transform(augment: Augment, classes: int) -> v2.Transform | None:
    """Mixup, CutMix, one of the two in turn, or None: ([B, C, H, W], [B] int64) -> (same, [B, classes])."""
    choices: list[v2.Transform] = []
    if augment.mixup:
        choices.append(v2.MixUp(alpha=float(augment.mixup), num_classes=classes))
    if augment.cutmix:
        choices.append(v2.CutMix(alpha=float(augment.cutmix), num_classes=classes))
    return v2.RandomChoice(choices) if len(choices) == 2 else choices[0] if choices else None


@dataclass
class InstanceAugment:
    """What is done at random to training pictures and their objects; 0 switches a step off."""

    scales: tuple[float, float] = (0.8, 1.0)
    """Range of a factor on the size that the picture has in the input; at most 1 with `fit`, none with `squash`."""
    jitter: tuple[float, float] = (0.0, 0.0)
    """Large-scale jitter, such as [0.1, 2.0], in place of `scales`: the picture is scaled by a factor of this range,
    then cut or padded to the size that it has in evaluation."""
    crop: float = 0.0
    """Least share of each side that a random crop keeps; it shows one object at least. 0 and 1 do not crop."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate90: float = 0.0
    """Probability of a turn by one, two or three right angles, for pictures without an up, as from microscopes; 0.75
    makes all four ways alike."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    copy_paste: float = 0.0
    """Probability that objects of another picture are cut out by their masks and pasted in; needs masks."""
    mosaic: float = 0.0
    """Probability that the picture is joined with three others."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("scales", "jitter"):
                low, high = value
                if not (0 < low <= high or low == high == 0):
                    raise VertebraError(
                        f"augment.{field.name} is [{low:g}, {high:g}]; it must go from a number above 0 to one no "
                        "smaller, such as [0.5, 1.5], or be [0, 0]."
                    )
            elif value < 0 or (value > 1 and field.name != "colour"):
                top = "it cannot be negative" if field.name == "colour" else "it must lie between 0 and 1"
                raise VertebraError(f"augment.{field.name} is {value:g}; {top}.")


class InstanceTransform:
    """Scene -> ([C, h, w] float32, Target in its pixels), augmented with torch's random numbers and normalised.

    h and w are those that `pictures.frame` gives the picture, scaled; the padding is left to `pictures.batched`. All is
    cut before it is scaled, and colours change where the picture has fewer pixels.
    """

    def __init__(self, augment: InstanceAugment, preprocess: Preprocess, points: Points | None = None) -> None:
        self.augment = augment
        self.preprocess = preprocess
        self.points = points
        change, saturated = augment.colour, preprocess.channels == 3
        self.colour = v2.ColorJitter(change, change, change if saturated else 0.0) if change else None

    def __call__(self, scene: Scene, another: Callable[[], Scene]) -> tuple[Tensor, Target]:
        """The scene augmented; `another` draws a further one of the data set with torch's random numbers."""
        a = self.augment
        if _happens(a.mosaic):
            scene = mosaic([scene, another(), another(), another()], self.preprocess)
        if _happens(a.copy_paste):
            scene = scenes.paste(scene, self._donor(another(), scene.size))
        if 0 < a.crop < 1:
            height, width = (max(1, round(side * _uniform(a.crop, 1.0))) for side in scene.size)
            scene = window(scene, height, width)
        if _happens(a.rotate90):
            scene = scenes.turn(scene, 1 + int(torch.randint(3, ())))
        scene, size = self._sized(scene)
        if _happens(a.flip):
            scene = scenes.flip(scene, self.points)
        if _happens(a.flip_vertical):
            scene = scenes.flip_vertical(scene, self.points)
        larger = size[0] * size[1] > scene.size[0] * scene.size[1]
        if self.colour is not None and larger:
            scene.picture = self.colour(scene.picture)
        scene = scenes.resize(scene, size, self.preprocess)
        if self.colour is not None and not larger:
            scene.picture = self.colour(scene.picture)
        return pictures.normalise(scene.picture, self.preprocess), scenes.settle(scene)

    def _sized(self, scene: Scene) -> tuple[Scene, tuple[int, int]]:
        """What the input will show of the scene, and (height, width) that this will have in it."""
        a, preprocess = self.augment, self.preprocess
        whole = pictures.frame(scene.size, preprocess).scaled
        if preprocess.resize == "squash":
            return scene, whole
        if a.jitter[1]:
            return _zoomed(scene, _uniform(*a.jitter), whole, preprocess.size if preprocess.resize == "fit" else whole)
        factor = _uniform(*a.scales) if a.scales[1] else 1.0
        factor = min(1.0, factor) if preprocess.resize == "fit" else factor
        height, width = (max(1, round(side * factor)) for side in preprocess.size)
        return scene, pictures.frame(scene.size, replace(preprocess, size=(height, width))).scaled

    def _donor(self, donor: Scene, size: tuple[int, int]) -> Scene:
        """Some of the objects of a picture that is flipped, scaled and laid somewhere onto a canvas of `size`."""
        a = self.augment
        donor = donor.take((torch.rand(len(donor.boxes)) < 0.5) & ~donor.crowd)
        if _happens(a.flip):
            donor = scenes.flip(donor, self.points)
        low, high = a.jitter if a.jitter[1] else a.scales if a.scales[1] else (1.0, 1.0)
        whole = pictures.frame(donor.size, replace(self.preprocess, resize="fit", size=size)).scaled
        donor, scaled = _zoomed(donor, _uniform(low, high), whole, size)
        top, left = (int(torch.randint(room - side + 1, ())) for room, side in zip(size, scaled))
        return scenes.crop(scenes.resize(donor, scaled, self.preprocess), -top, -left, *size)


def mosaic(four: Sequence[Scene], preprocess: Preprocess) -> Scene:
    """Four pictures joined at a random point of a canvas of the first one's size, each cut to fill its corner.

    Source: YOLOv4, arXiv:2004.10934, section 3.3.
    """
    size = four[0].size
    y, x = (min(side - 1, max(1, round(side * _uniform(0.25, 0.75)))) if side > 1 else 0 for side in size)
    corners = [(0, 0, y, x), (0, x, y, size[1] - x), (y, 0, size[0] - y, x), (y, x, size[0] - y, size[1] - x)]
    tiles = []
    for scene, (top, left, height, width) in zip(four, corners, strict=True):
        if height and width:
            scale = max(height / scene.size[0], width / scene.size[1])
            seen = (min(side, max(1, round(new / scale))) for side, new in zip(scene.size, (height, width)))
            tiles.append((top, left, scenes.resize(window(scene, *seen), (height, width), preprocess)))
    return scenes.join(tiles, size)


def window(scene: Scene, height: int, width: int) -> Scene:
    """A part of (height, width) of the picture, at random; if there are objects, one's centre lies in it."""
    if (height, width) == scene.size:
        return scene
    low, high = [0, 0], [scene.size[0] - height, scene.size[1] - width]
    objects = scene.boxes[~scene.crowd]
    if len(objects):
        box = objects[int(torch.randint(len(objects), ()))]
        for axis, side in enumerate((height, width)):
            centre = int((box[1 - axis] + box[3 - axis]) / 2)
            low[axis] = min(high[axis], max(0, centre - side + 1))
            high[axis] = max(low[axis], min(high[axis], centre))
    top, left = (int(torch.randint(first, last + 1, ())) for first, last in zip(low, high))
    return scenes.crop(scene, top, left, height, width)


def _zoomed(
    scene: Scene, factor: float, whole: tuple[int, int], most: tuple[int, int]
) -> tuple[Scene, tuple[int, int]]:
    """A scene that is to be scaled to `factor` times (height, width) `whole`, cut to what `most` has room for."""
    height, width = (max(1, round(side * factor)) for side in whole)
    seen = (max(1, round(own * min(1.0, room / new))) for own, room, new in zip(scene.size, most, (height, width)))
    return window(scene, *seen), (min(height, most[0]), min(width, most[1]))


def _happens(probability: float) -> bool:
    return probability > 0 and float(torch.rand(())) < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
