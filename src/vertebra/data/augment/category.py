"""Augmentation for classes of whole images: of single images, by torchvision's v2 transforms, and of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vertebra.data.augment import BatchTransform
from vertebra.data.geometry import LOCATED, Example
from vertebra.errors import VertebraError, in_range
from vertebra.images import normalise, resize_image
from vertebra.structures import Preprocess, Target

if TYPE_CHECKING:
    from torchvision.transforms import v2


@dataclass
class CategoryAugment:
    """Random changes of training images; 0 turns a step off."""

    crop: float = 0.35
    """Minimum share of the image's area that a random crop keeps; 1 takes the whole image as in evaluation."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    flip_vertical: float = 0.0
    """Probability of a top-bottom flip."""
    rotate: float = 0.0
    """Maximum rotation in either direction, in degrees."""
    colour: float = 0.2
    """Maximum relative change of brightness, contrast and saturation, in 0..1."""
    randaugment: int = 0
    """Magnitude of RandAugment's two operations, 1 to 30."""
    trivialaugment: bool = False
    """TrivialAugment: one operation of a random magnitude, in its wide space."""
    augmix: int = 0
    """Severity of AugMix, 1 to 10: the image is blended with three chains of operations on it."""
    erase: float = 0.0
    """Probability of random erasing."""
    mixup: float = 0.0
    """Alpha of mixup: two images of a batch are blended, and their labels with them."""
    cutmix: float = 0.0
    """Alpha of CutMix; with mixup too, each batch takes one of the two."""

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "flip_vertical", "erase"):
            in_range(f"augment.{name}", getattr(self, name), 0, 1)
        in_range("augment.colour", self.colour, 0, 1)
        in_range("augment.rotate", self.rotate, 0, 180)
        for name in ("mixup", "cutmix"):
            in_range(f"augment.{name}", getattr(self, name), 0, 100)
        in_range("augment.randaugment", self.randaugment, 0, 30)
        in_range("augment.augmix", self.augmix, 0, 10)
        policies = [name for name in ("randaugment", "trivialaugment", "augmix") if getattr(self, name)]
        if len(policies) > 1:
            raise VertebraError(f"augment.{' and augment.'.join(policies)} are alternatives: choose one.")


FIRST_MAGNITUDE = 5
"""Of RandAugment in the first stage of progressive learning: EfficientNetV2, arXiv:2104.00298, table 6."""


def eased(augment: CategoryAugment, share: float) -> CategoryAugment:
    """The augmentation at a share, in 0..1, of the way from the first stage of progressive learning to the last: the
    magnitude of RandAugment rises from FIRST_MAGNITUDE, if it is to become more, and mixup's alpha from 0."""
    first = min(FIRST_MAGNITUDE, augment.randaugment)
    magnitude = round(first + (augment.randaugment - first) * share)
    return replace(augment, randaugment=magnitude, mixup=augment.mixup * share)


class CategoryTransform:
    """Example -> ([C, *size] float32, Target), augmented with torch's random numbers and normalised.

    The target keeps what holds for the image as a whole; boxes and all else that refers to pixels is removed.
    """

    def __init__(self, augment: CategoryAugment, preprocess: Preprocess) -> None:
        from torchvision.transforms import v2  # a second of imports, for training alone

        self.preprocess = preprocess
        steps: list[torch.nn.Module] = []
        if augment.crop < 1.0:
            interpolation = v2.InterpolationMode(preprocess.interpolation)
            ratio = (3 / 4, 4 / 3)
            steps.append(
                v2.RandomResizedCrop(preprocess.size, (augment.crop, 1.0), ratio, interpolation, antialias=True)
            )
        else:
            steps.append(_Resize(preprocess))
        if augment.flip:
            steps.append(v2.RandomHorizontalFlip(augment.flip))
        if augment.flip_vertical:
            steps.append(v2.RandomVerticalFlip(augment.flip_vertical))
        fill = [round(255 * m) for m in preprocess.mean]
        if augment.rotate:
            steps.append(v2.RandomRotation(augment.rotate, v2.InterpolationMode.BILINEAR, fill=fill))
        if augment.randaugment:
            steps.append(v2.RandAugment(2, augment.randaugment, fill=fill))
        if augment.trivialaugment:
            steps.append(v2.TrivialAugmentWide(fill=fill))
        if augment.augmix:
            steps.append(v2.AugMix(augment.augmix, fill=fill))
        if augment.colour:
            saturation = augment.colour if preprocess.channels == 3 else 0.0
            steps.append(v2.ColorJitter(augment.colour, augment.colour, saturation))
        self.steps = v2.Compose(steps)
        self.erase = v2.RandomErasing(augment.erase) if augment.erase else None

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        """The example augmented; `another` is not used."""
        image = normalise(self.steps(example.image), self.preprocess)
        if self.erase is not None:
            image = self.erase(image)
        removed: dict[str, Any] = dict.fromkeys(LOCATED)
        return image, replace(example.target, size=(image.shape[-2], image.shape[-1]), **removed)


class _Resize(torch.nn.Module):
    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, image: Tensor) -> Tensor:
        return resize_image(image, self.preprocess)


def batch_transform(augment: CategoryAugment, num_classes: int) -> BatchTransform | None:
    """Mixup, CutMix, one of the two at random, or None; labels become [num_classes] float32."""
    from torchvision.transforms import v2

    choices: list[v2.Transform] = []
    if augment.mixup:
        choices.append(v2.MixUp(alpha=float(augment.mixup), num_classes=num_classes))
    if augment.cutmix:
        choices.append(v2.CutMix(alpha=float(augment.cutmix), num_classes=num_classes))
    if not choices:
        return None
    return _Mix(v2.RandomChoice(choices) if len(choices) == 2 else choices[0])


class _Mix:
    """[B, C, H, W] and targets with labels [] int64 -> the same, mixed, with labels [num_classes] float32."""

    def __init__(self, mix: v2.Transform) -> None:
        self.mix = mix

    def __call__(self, images: Tensor, targets: list[Target]) -> tuple[Tensor, list[Target]]:
        labels = torch.stack([target.label for target in targets if target.label is not None])
        images, labels = self.mix(images, labels)
        return images, [replace(target, label=label) for label, target in zip(labels, targets, strict=True)]
