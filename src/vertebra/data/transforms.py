"""Augmentation of single pictures and of batches; torchvision's v2 transforms do the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from vertebra import pictures
from vertebra.structures import Preprocess


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
