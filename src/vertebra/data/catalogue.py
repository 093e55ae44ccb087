"""What a data set holds: its pictures by split, what is true of them, and what the classes are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra import pictures
from vertebra.errors import VertebraError, nearest
from vertebra.structures import Points, Target

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Every split, and the folder names and CSV words that mean it."""
WANTS = ("label", "boxes", "masks", "keypoints")
"""The fields of Target that a task can learn from."""

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
    """The mask of each instance, where masks are wanted and the data set has them; decoded by `truth`."""
    numbers: tuple[int, ...] = ()
    """The number of each instance in the data set's own file: COCO's own, or which object or line it is, from 1."""

    @property
    def label(self) -> int:
        """Class of the whole picture."""
        assert self.target.label is not None
        return int(self.target.label)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; the picture's file is looked into if the data set does not tell.

        Raises:
            BrokenPicture: if that cannot be read.
        """
        if self.target.size is not None:
            return self.target.size
        if isinstance(self.picture, Path):
            return pictures.measure(self.picture)
        return self.picture.shape[-2], self.picture.shape[-1]

    def where(self, i: int) -> str:
        """Instance number `i` in words, for sentences."""
        name = f"annotation {self.numbers[i]}" if i < len(self.numbers) else f"object {i + 1}"
        return f"{self.target.path}, {name}"

    def truth(self, size: tuple[int, int], *, pieces: bool = False) -> Target:
        """The target with its masks decoded, for a picture that was read and is of (height, width) `size`.

        The masks are [N, H, W], or with `pieces` a Masks: those of a large picture's thousand objects would not fit.

        Where the data set has masks and no boxes, the boxes and areas are the masks', and masks without a pixel are
        left out.

        Raises:
            VertebraError: if the picture or a mask is of another size than annotated, or a mask cannot be decoded.
        """
        known = self.target.size
        if known is not None and known != tuple(size):
            turned = ", perhaps because its EXIF tag turns it" if known == (size[1], size[0]) else ""
            raise VertebraError(
                f"{self.target.path}: the picture is {size[0]} x {size[1]} pixels, its annotations are for "
                f"{known[0]} x {known[1]} (height x width){turned}."
            )
        target = replace(self.target, size=size)
        if not self.segments:
            none = target.labels is not None and not len(target.labels)
            return replace(target, masks=torch.zeros(0, *size, dtype=torch.bool)) if none else target
        from vertebra.data import runs, segments

        found = [segments.cut(segment, size, self.where(i)) for i, segment in enumerate(self.segments)]
        if target.boxes is None:
            kept = [i for i, (_, _, mask) in enumerate(found) if mask.any()]
            found = [found[i] for i in kept]
            boxes = [(x, y, x + mask.shape[1], y + mask.shape[0]) for x, y, mask in found]
            target = replace(
                target,
                boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                areas=torch.tensor([float(mask.sum()) for _, _, mask in found]),
                labels=None if target.labels is None else target.labels[kept],
                crowd=None if target.crowd is None else target.crowd[kept],
            )
        return replace(target, masks=runs.apart(found, size) if pieces else runs.whole(found, size))


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

    def left_out(self, *, strict: bool) -> list[str]:
        """What is wrong with the data set's own files, a sentence each; VertebraError with the first if `strict`."""
        if strict and self.broken:
            raise VertebraError(f"{self.broken[0]} (--strict lets nothing be left out)")
        return self.broken

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


def same_points(catalogue: Catalogue, wanted: Points) -> None:
    """Raises if the data's keypoints are others than the `wanted`, or in another order; numbers stand for any name."""
    assert catalogue.points is not None
    own = catalogue.points.names
    unnamed = any(names == tuple(map(str, range(len(names)))) for names in (own, wanted.names))
    if len(own) != len(wanted.names) or (own != wanted.names and not unnamed):
        raise VertebraError(
            f"{catalogue.path} has the keypoints {', '.join(own)}; the model has {', '.join(wanted.names)}, "
            "and they must be the same in the same order."
        )


def _renumbered(labels: Tensor | None, numbers: Tensor) -> Tensor | None:
    return None if labels is None else numbers[labels]
