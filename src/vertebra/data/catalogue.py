"""What a data set holds: its pictures by split, what is true of them, and what the classes are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.errors import VertebraError, nearest
from vertebra.structures import Points, Target

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Every split, and the folder names and CSV words that mean it."""


Segment = list[list[float]] | dict[str, Any] | Path | Tensor
"""How a data set writes one mask: polygons x1, y1, x2, y2, ... in pixels; COCO's run-length encoding, as lists or
compressed; a picture file whose pixels other than 0 are the mask; or [H, W] bool."""


@dataclass(frozen=True)
class Sample:
    """One picture, by path or as pixels [C, H, W] uint8, and what is true of it."""

    picture: Path | Tensor
    target: Target
    """Everything but the masks, in pixels of the picture as it is read, upright."""
    segments: tuple[Segment, ...] = ()
    """The mask of each instance, where the data set has masks; decoded when it is wanted."""

    @property
    def label(self) -> int:
        """Class of the whole picture."""
        assert self.target.label is not None
        return int(self.target.label)

    def truth(self, size: tuple[int, int]) -> Target:
        """The target with its masks decoded, for a picture of (height, width) `size`.

        Raises:
            VertebraError: if a mask is of another size, or cannot be decoded.
        """
        if not self.segments:
            return replace(self.target, size=size)
        from vertebra.data.segments import decode

        masks = [decode(segment, size, self.target.path) for segment in self.segments]
        return replace(self.target, size=size, masks=torch.stack(masks))


@dataclass
class Catalogue:
    """A data set that is known but not yet read."""

    path: str
    kind: str
    """`folder`, `csv`, `idx`, `coco`, `voc`, `yolo`, `masks` or `shapes`."""
    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    """What a user should know: how it was split, what was passed over."""
    broken: list[str] = field(default_factory=list)
    """One sentence per annotation that is left out because it is wrong, naming file and id."""
    has: frozenset[str] = frozenset({"label"})
    """Which fields of Target the data tells: `label`, `boxes`, `masks`, `keypoints`, `semantic`."""
    category_ids: tuple[int, ...] = ()
    """The number of each class in the data set's own files, which may have gaps; 1, 2, ... if empty."""
    points: Points | None = None
    """The keypoints, where the data has any."""

    def split(self, name: str) -> list[Sample]:
        """The samples of a split; VertebraError if it is not there or empty."""
        if not self.splits.get(name):
            have = ", ".join(f"{k} ({len(v)})" for k, v in self.splits.items())
            raise VertebraError(f"{self.path} has no pictures in its {name} split; it has {have}.")
        return self.splits[name]

    def counts(self, name: str) -> list[int]:
        """Pictures per class of a split, or instances where there are boxes, in the order of the classes."""
        count: Counter[int] = Counter()
        for sample in self.splits.get(name, []):
            labels = sample.target.labels if "boxes" in self.has else sample.target.label
            assert labels is not None
            count.update(labels.reshape(-1).tolist())
        return [count[i] for i in range(len(self.classes))]


def restrict(samples: Iterable[Sample], own: tuple[str, ...], wanted: tuple[str, ...]) -> list[Sample]:
    """The samples with labels renumbered from the classes `own` to the classes `wanted`.

    Raises:
        VertebraError: if a class of the data is not among the wanted ones.
    """
    if own == wanted:
        return list(samples)
    for name in own:
        if name not in wanted:
            raise VertebraError(f"the data has a class {name!r} that the model does not know.{nearest(name, wanted)}")
    numbers = torch.tensor([wanted.index(name) for name in own])
    return [
        replace(
            s,
            target=replace(
                s.target, label=_renumbered(s.target.label, numbers), labels=_renumbered(s.target.labels, numbers)
            ),
        )
        for s in samples
    ]


def _renumbered(labels: Tensor | None, numbers: Tensor) -> Tensor | None:
    return None if labels is None else numbers[labels]
