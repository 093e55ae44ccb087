"""Augmentation of batches whose images have several classes each: mixup and CutMix, as for one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from vertebra.data.augment import BatchTransform
from vertebra.data.augment.category import CategoryAugment, batch_transform
from vertebra.ops.multilabel import multi_hot
from vertebra.structures import Target


def tags_batch_transform(augment: CategoryAugment, num_classes: int) -> BatchTransform | None:
    """Mixup, CutMix, one of the two at random, or None; tags become [num_classes] float32, mixed as the images are."""
    mix = batch_transform(augment, num_classes)
    return None if mix is None else _MixTags(mix, num_classes)


class _MixTags:
    """[B, C, H, W] and targets with tags [N] int64 -> the same, mixed, with tags [num_classes] float32."""

    def __init__(self, mix: BatchTransform, num_classes: int) -> None:
        self.mix = mix
        self.num_classes = num_classes

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, list[Target]]:
        rows = multi_hot([target.tags for target in targets if target.tags is not None], self.num_classes)
        images, mixed = self.mix(images, [Target(label=row) for row in rows])
        return images, [replace(target, tags=soft.label) for target, soft in zip(targets, mixed, strict=True)]
