"""Augmentation of objects that are cut out by their boxes, with their keypoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vertebra.data.augment import happens, uniform
from vertebra.data.geometry import Example, alone
from vertebra.errors import in_range
from vertebra.images import normalise
from vertebra.ops.crops import crop_matrix, joined, mirror_matrix, moved, surroundings, warp
from vertebra.structures import COCO_PERSON, KeypointSchema, Preprocess, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

UPPER_BODY = frozenset(COCO_PERSON.names[:11])
"""Names of COCO's keypoints from the head to the wrists."""
HALF_BODY_MARGIN = 1.2
"""Factor on the sides of the rectangle around the keypoints of half a body, besides Preprocess.margin: 1.5 of its sides
are shown, as by HRNet's authors."""


@dataclass
class PoseAugment:
    """Random changes of training objects; 0 turns a step off."""

    scale: float = 0.35
    """Maximum relative change of the part of the image that is shown."""
    rotate: float = 40.0
    """Standard deviation of the rotation in degrees; at most twice as much."""
    rotate_probability: float = 0.6
    """Probability of a rotation."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 where left and right differ in meaning."""
    half_body: float = 0.3
    """Probability that the upper or the lower half of a body is shown, where more than `half_body_keypoints` are
    labelled; for keypoints with COCO's names."""
    half_body_keypoints: int = 8
    """See `half_body`."""
    shift: float = 0.0
    """Maximum shift of the part that is shown, as a share of its sides."""
    colour: float = 0.0
    """Maximum relative change of brightness, contrast and saturation, in 0..1."""

    def __post_init__(self) -> None:
        for name in ("scale", "rotate_probability", "flip", "half_body", "shift", "colour"):
            in_range(f"augment.{name}", getattr(self, name), 0, 1)
        in_range("augment.rotate", self.rotate, 0, 180)
        in_range("augment.half_body_keypoints", self.half_body_keypoints, 0, 1_000_000)


class PoseTransform:
    """Example of an object -> ([C, h, w] float32, Target with that object alone), augmented with torch's random numbers
    and normalised.

    Source: Deep High-Resolution Representation Learning for Human Pose Estimation, arXiv:1902.09212, section 4.1.
    """

    def __init__(self, augment: PoseAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None) -> None:
        from torchvision.transforms import v2  # a second of imports, for training alone

        self.augment = augment
        self.preprocess = preprocess
        self.keypoints = keypoints
        names = () if keypoints is None else keypoints.names
        self.upper = torch.tensor([name in UPPER_BODY for name in names])
        change, coloured = augment.colour, preprocess.channels == 3
        self.colour = v2.ColorJitter(change, change, change if coloured else 0.0) if change else None

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        augment, preprocess = self.augment, self.preprocess
        example = alone(example)
        assert example.region is not None
        assert example.target.keypoints is not None
        keypoints = example.target.keypoints[0]  # [K, 3]
        x, y, width, height = self._part(example.region.box, keypoints)
        factor = 1 + _normal(augment.scale, augment.scale)
        x += width * uniform(-augment.shift, augment.shift) if augment.shift else 0.0
        y += height * uniform(-augment.shift, augment.shift) if augment.shift else 0.0
        turned = augment.rotate > 0 and happens(augment.rotate_probability)
        rotation = _normal(augment.rotate, 2 * augment.rotate) if turned else 0.0
        part = (x, y, width * factor, height * factor)
        matrix = crop_matrix(part, preprocess.size, rotation=rotation, udp=preprocess.udp)
        if happens(augment.flip):
            matrix = joined(matrix, mirror_matrix(preprocess.size[1]))
            if self.keypoints is not None and self.keypoints.flip_indices:
                keypoints = keypoints[list(self.keypoints.flip_indices)]
        image = warp(example.image, matrix, preprocess.size)
        if self.colour is not None:
            image = self.colour(image)
        points = torch.cat((moved(keypoints[:, :2], matrix), keypoints[:, 2:]), 1) * (keypoints[:, 2:] > 0)
        target = Target(
            boxes=torch.tensor([[0.0, 0.0, *preprocess.size[::-1]]]),
            labels=torch.tensor([example.region.label]),
            keypoints=points[None],
            size=preprocess.size,
            id=example.target.id,
            path=example.target.path,
        )
        return normalise(image, preprocess), target

    def _part(self, box: Sequence[float], keypoints: Tensor) -> tuple[float, float, float, float]:
        """The part of the image that is shown: centre x, y, width and height."""
        preprocess, labelled = self.preprocess, keypoints[:, 2] > 0
        whole = surroundings(box, preprocess.size, preprocess.margin)
        if int(labelled.sum()) <= self.augment.half_body_keypoints or not happens(self.augment.half_body):
            return whole
        halves = [half for half in (labelled & self.upper, labelled & ~self.upper) if int(half.sum()) > 2]
        if not halves or not bool(self.upper.any()):
            return whole
        points = keypoints[halves[int(torch.randint(len(halves), ()))], :2]
        low, high = points.amin(0), points.amax(0)
        sides = surroundings([*low.tolist(), *high.tolist()], preprocess.size, HALF_BODY_MARGIN * preprocess.margin)
        x, y = points.mean(0).tolist()
        return x, y, sides[2], sides[3]


def _normal(deviation: float, limit: float) -> float:
    """A normal random number, at most `limit` from 0, by torch's random numbers."""
    if deviation == 0:
        return 0.0
    return max(-limit, min(limit, deviation * float(torch.randn(()))))
