"""A user's transforms of training images: a composition of torchvision.transforms.v2, or any function like one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from vertebra.data.augment import Transform
from vertebra.data.datasets import checked_target
from vertebra.data.geometry import Example, alone, in_region
from vertebra.errors import VertebraError, first_line, shown
from vertebra.images import read_image
from vertebra.structures import Target

Transforms = Callable[[Tensor, dict[str, Any]], tuple[Any, dict[str, Any]]]
"""(image, target) -> (image, target): a tv_tensors.Image [C, H, W] uint8, and a dict as `entries` makes it. The image
may be returned as anything that `images.read_image` reads."""
ROWS = ("boxes", "labels", "masks", "keypoints", "visibility", "crowd")
"""Entries that have a row per object."""


class CustomTransform:
    """Example -> what `augment` makes of it after the user's `transforms`.

    Torch's, NumPy's and Python's random numbers are seeded for each image.
    """

    def __init__(self, transforms: Transforms, augment: Transform, channels: int) -> None:
        self.transforms = transforms
        self.augment = augment
        self.channels = channels

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        return self.augment(self.transformed(example), lambda: self.transformed(another()))

    def transformed(self, example: Example) -> Example:
        """The example after the user's transforms.

        Raises:
            VertebraError: if they fail, or do not return (image, target) as described; the sentence names the image.
        """
        where = f"{example.target.path}: transforms" if example.target.path else "transforms"
        if example.region is not None:
            example = alone(example)
        given = entries(example)
        try:
            with _seeded():
                result: Any = self.transforms(tv_tensors.Image(example.image), dict(given))
        except Exception as error:  # a user's code can raise anything
            raise VertebraError(
                f"{where}: {type(error).__name__}: {first_line(error)} (they are called with an image and a dict)"
            ) from error
        if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], dict)):
            raise VertebraError(f"{where} returned {shown(type(result).__name__)}; they must return (image, dict).")
        image, target = result
        if target.keys() != given.keys():
            raise VertebraError(
                f"{where} returned the entries {', '.join(map(shown, target))}; they must return those that they were "
                f"given: {', '.join(given)}."
            )
        try:
            pixels = read_image(image, self.channels).as_subclass(Tensor)
            moved = Example(pixels, _target(target, example.target, (pixels.shape[-2], pixels.shape[-1])))
            return moved if example.region is None else in_region(moved, example)
        except VertebraError as error:
            floats = isinstance(image, Tensor) and image.is_floating_point()
            hint = " Images are normalised afterwards: leave v2.Normalize out." if floats else ""
            raise VertebraError(f"{where}: {error}{hint}") from error


def entries(example: Example) -> dict[str, Any]:
    """The fields of a Target that are not None, as torchvision.transforms.v2 moves them.

    `label`: [] int64; `boxes`: tv_tensors.BoundingBoxes [N, 4] x1, y1, x2, y2; `labels`: [N] int64; `crowd`: [N] bool;
    `masks`: tv_tensors.Mask [N, H, W] bool; `keypoints`: tv_tensors.KeyPoints [N, K, 2] x, y; `visibility`: [N, K];
    `semantic`: tv_tensors.Mask [H, W] int64.
    """
    target, size = example.target, example.size
    result: dict[str, Any] = {
        name: value for name in ("label", "labels", "crowd") if (value := getattr(target, name)) is not None
    }
    if target.boxes is not None:
        result["boxes"] = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=size)
    if target.masks is not None:
        result["masks"] = tv_tensors.Mask(target.masks.dense())
    if target.keypoints is not None:
        result["keypoints"] = tv_tensors.KeyPoints(target.keypoints[..., :2], canvas_size=size)
        result["visibility"] = target.keypoints[..., 2]
    if target.semantic is not None:
        result["semantic"] = tv_tensors.Mask(target.semantic)
    return result


def _target(values: dict[str, Any], before: Target, size: tuple[int, int]) -> Target:
    """The inverse of `entries`, for an image of (height, width) `size`; without objects whose box or mask is empty."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise VertebraError(f"{name} is {shown(type(value).__name__)}; it must be a tensor.")
    rows = {name: len(values[name]) for name in ROWS if name in values}
    if "crowd" in rows and not bool(values["crowd"].any()):
        values = values | {"crowd": torch.zeros(rows["labels"], dtype=torch.bool)}
        rows["crowd"] = rows["labels"]
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in rows.items())
        raise VertebraError(
            f"they left different numbers of rows, {counts}; leave v2.SanitizeBoundingBoxes out, since objects with an "
            "empty box are removed anyway."
        )
    plain: dict[str, Any] = {name: value.as_subclass(Tensor) for name, value in values.items()}
    if isinstance(boxes := values.get("boxes"), tv_tensors.BoundingBoxes):
        plain["boxes"] = F.convert_bounding_box_format(boxes, new_format="XYXY").as_subclass(Tensor)
    if "boxes" in plain:
        height, width = size
        plain["boxes"] = plain["boxes"].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        kept = (plain["boxes"][:, 2:] > plain["boxes"][:, :2]).all(1)
        if "masks" in plain:
            kept &= plain["masks"].flatten(1).any(1)
        plain |= {name: plain[name][kept] for name in rows}
    if "keypoints" in plain:
        x, y = plain["keypoints"].unbind(-1)
        visible = plain.pop("visibility") * ((x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0]))
        plain["keypoints"] = torch.stack([x, y, visible], -1) * (visible > 0)[..., None]
    return checked_target(replace(before, areas=None, **plain), size)


@contextmanager
def _seeded() -> Iterator[None]:
    """Python's and NumPy's random numbers follow from torch's."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = int(torch.randint(2**32, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
