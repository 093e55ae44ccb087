"""What the readers of objects share: annotations to samples, and what is wrong with an annotation in words."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vertebra.data import segments
from vertebra.data.catalogue import SPLITS, Catalogue, Sample, Segment
from vertebra.errors import VertebraError
from vertebra.structures import COCO_PERSON, Points, Target

LEAST = 0.01
"""Pixels; a box with a shorter side is none."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object as a data set's file tells of it, nothing of it checked but its class."""

    where: str
    """The file and the object's number or line, for sentences."""
    label: int
    """Index of its class."""
    box: Sequence[float]
    """x1, y1, x2, y2 in pixels, end exclusive."""
    segment: Segment | None = None
    points: Sequence[float] | None = None
    """x, y, visibility of each keypoint in turn."""
    crowd: bool = False
    area: float | None = None
    """As annotated; if None the mask's, or else the box's."""
    number: int | None = None
    """In its file: COCO's own, or which object or line it is, from 1."""


class Gatherer:
    """Makes samples of annotations, checks each, and keeps account of those that it leaves out.

    Args:
        want: as for `open_data`.
        points: the keypoints that each object has, if the data set has any.
    """

    def __init__(self, want: str | None, points: Points | None = None) -> None:
        self.want = want
        self.points = points
        self.broken: list[str] = []
        self.maskless: list[str] = []
        self.has: set[str] = {"boxes"}
        self.objects = 0
        self.crowds = 0
        self.clipped = 0

    def sample(
        self, picture: Path, size: tuple[int, int], annotations: Iterable[Annotation], id: int | None = None
    ) -> Sample:
        """The picture of (height, width) `size` with every annotation that is right."""
        good: list[Annotation] = []
        boxes: list[list[float]] = []
        for annotation in annotations:
            fault = self._fault(annotation, size)
            if fault:
                self.broken.append(f"{annotation.where} is left out: {fault}.")
                continue
            if annotation.segment:
                self.has.add("masks")
            if annotation.points:
                self.has.add("keypoints")
            self.crowds += annotation.crowd
            self.objects += not annotation.crowd
            if not annotation.segment:
                self.maskless.append(annotation.where)
                if self.want == "masks":
                    continue
            good.append(annotation)
            boxes.append(self._clip(annotation.box, size))
        areas = [
            self._area(annotation, box, size) if annotation.area is None else annotation.area
            for annotation, box in zip(good, boxes, strict=True)
        ]
        target = Target(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([annotation.label for annotation in good], dtype=torch.int64),
            crowd=torch.tensor([annotation.crowd for annotation in good], dtype=torch.bool),
            areas=torch.tensor(areas, dtype=torch.float32),
            size=size,
            id=id,
            path=str(picture),
        )
        if self.points and self.want in ("keypoints", None):
            none = [0.0] * (3 * len(self.points.names))
            keypoints = torch.tensor([annotation.points or none for annotation in good], dtype=torch.float32)
            target.keypoints = keypoints.reshape(-1, len(self.points.names), 3)
        masks: tuple[Segment, ...] = ()
        if self.want in ("masks", None):
            masks = tuple(_usable(annotation.segment) for annotation in good)
        numbers = tuple(annotation.number for annotation in good if annotation.number is not None)
        return Sample(picture, target, masks, numbers)

    def catalogue(
        self,
        path: Path,
        kind: str,
        classes: tuple[str, ...],
        splits: dict[str, list[Sample]],
        notes: Sequence[str] = (),
        category_ids: tuple[int, ...] = (),
    ) -> Catalogue:
        """All that was gathered, as the catalogue of a data set.

        Raises:
            VertebraError: if it has no pictures, or no object in any.
        """
        if not any(splits.values()):
            raise VertebraError(f"{path} has no pictures.{_first(self.broken)}")
        if not self.objects and self.crowds:
            raise VertebraError(
                f"{path}: all its {self.crowds} objects are marked as crowd (COCO's iscrowd, VOC's difficult), which "
                "is neither learned nor judged. CVAT marks every painted mask so: set iscrowd to 0, or export polygons."
            )
        if not self.objects:
            raise VertebraError(f"{path} has pictures but not one object.{_first(self.broken)}")
        notes = list(notes)
        if self.crowds > self.objects:
            notes.append(
                f"{self.crowds} of {self.crowds + self.objects} objects are marked as crowd (iscrowd, difficult): "
                "they are neither learned nor judged"
            )
        if self.want == "keypoints" and self.points and self.points.flip in ((), tuple(range(len(self.points.names)))):
            notes.append(
                "no keypoint tells left from right by its name: in pictures flipped sideways each keeps its own; "
                "where that is wrong, train with --augment.flip=0"
            )
        if self.clipped:
            notes.append(
                f"boxes cut at their picture's border, which they crossed by more than a pixel: {self.clipped}"
            )
        if "masks" in self.has and self.maskless:
            if self.want == "masks":
                self.broken += [f"{where} is left out: it has a box but no mask." for where in self.maskless]
            else:
                notes.append(f"objects without a mask: {len(self.maskless)}, {self.maskless[0]} for one")
        if "masks" not in self.has:  # a segment for each object or none at all
            splits = {name: [replace(s, segments=()) for s in samples] for name, samples in splits.items()}
        return Catalogue(
            str(path),
            kind,
            classes,
            splits,
            notes,
            self.broken,
            frozenset(self.has),
            category_ids,
            self.points if "keypoints" in self.has else None,
        )

    def _fault(self, annotation: Annotation, size: tuple[int, int]) -> str:
        try:
            x1, y1, x2, y2 = annotation.box
            finite = math.isfinite(x1 + y1 + x2 + y2)
        except (TypeError, ValueError):
            return f"its box is {annotation.box}, not four numbers"
        height, width = size
        if not finite:
            return "its box has a number that is not finite"
        if x2 - x1 < LEAST or y2 - y1 < LEAST:
            return f"its box is {x2 - x1:g} x {y2 - y1:g} pixels (width x height)"
        if min(x2, width) - max(x1, 0) < LEAST or min(y2, height) - max(y1, 0) < LEAST:
            return f"its box from {x1:g}, {y1:g} to {x2:g}, {y2:g} is outside the picture ({width} x {height} pixels)"
        if annotation.area is not None and not _is_size(annotation.area):
            return f"its area is {annotation.area}"
        if annotation.segment and (fault := segments.fault(annotation.segment, size)):
            return fault
        if annotation.points and self.points:
            return _fault_of_points(annotation.points, len(self.points.names))
        return ""

    def _area(self, annotation: Annotation, box: Sequence[float], size: tuple[int, int]) -> float:
        segment = _usable(annotation.segment)
        if segment and isinstance(segment, list | dict):
            return float(segments.cut(segment, size, annotation.where)[2].sum())
        return (box[2] - box[0]) * (box[3] - box[1])

    def _clip(self, box: Sequence[float], size: tuple[int, int]) -> list[float]:
        x1, y1, x2, y2 = box
        height, width = size
        self.clipped += max(-x1, -y1, x2 - width, y2 - height) > 1
        return [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]


def _first(sentences: Sequence[str]) -> str:
    return f" The first of {len(sentences)} problems: {sentences[0]}" if sentences else ""


def _usable(segment: Segment | None) -> Segment:
    """Without the polygons of one or two points, which COCO's own tools take for boxes; [] for no mask."""
    if isinstance(segment, list):
        return [polygon for polygon in segment if len(polygon) >= 6]
    return [] if segment is None else segment


def _fault_of_points(points: Sequence[float], count: int) -> str:
    try:
        if len(points) != 3 * count:
            return f"its keypoints are {len(points)} numbers, not three for each of {count}"
        if not math.isfinite(sum(points)):
            return "one of its keypoints is not a finite number"
        if any(visible not in (0, 1, 2) for visible in points[2::3]):
            return "the visibility of one of its keypoints is not 0 (absent), 1 (hidden) or 2 (seen)"
    except TypeError:
        return "its keypoints are not a list of numbers"
    return ""


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


class Listing:
    """Which files there are, by one look into each folder: asking for each of 100,000 files takes minutes."""

    def __init__(self) -> None:
        self.folders: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str | Path) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def names(self, folder: str | Path) -> frozenset[str]:
        """Of everything in a folder; none if it is not there."""
        folder = str(folder) or "."
        if folder not in self.folders:
            self.folders[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        return self.folders[folder]


def split_of(name: str) -> str:
    """The split that a file's or folder's name tells of, such as `val` by `instances_val2017`; or nothing."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, known in SPLITS.items() for word in words if word in known), "")


def split_folders(path: Path, is_one: Callable[[Path], bool]) -> dict[str, Path]:
    """The folders of splits in `path` for which `is_one` holds."""
    words = {word: split for split, known in SPLITS.items() for word in known}
    return {
        words[folder.name.lower()]: folder
        for folder in sorted(path.iterdir())
        if folder.name.lower() in words and folder.is_dir() and is_one(folder)
    }


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """Which keypoint each becomes in the mirror: `left_eye` the `right_eye`; itself without a counterpart."""
    places = {name.lower(): i for i, name in enumerate(names)}
    other = {"left": "right", "right": "left", "l": "r", "r": "l"}
    side = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")  # also l_eye, eye.R
    swapped = [side.sub(lambda found: other[found[0]], name.lower()) for name in names]
    return tuple(places.get(name, i) for i, name in enumerate(swapped))


def swapped_points(flip: Any, count: int, where: str) -> tuple[int, ...]:
    """A data set's own word, as YOLO's flip_idx, on which of `count` keypoints each becomes in the mirror.

    Raises:
        VertebraError: if it does not name each once, or mirroring twice would not bring one back.
    """
    if not isinstance(flip, list) or sorted(map(repr, flip)) != sorted(map(repr, range(count))):
        raise VertebraError(f"{where}: flip_idx is {flip!r}, each of 0 to {count - 1} once is expected.")
    if astray := [i for i in range(count) if flip[flip[i]] != i]:
        i = astray[0]
        raise VertebraError(f"{where}: flip_idx makes {i} {flip[i]} in the mirror, but {flip[i]} {flip[flip[i]]}.")
    return tuple(flip)


def named_points(names: Sequence[str], known: Points, where: str) -> Points:
    """Keypoints by their names alone; those of `known` if the names are its.

    Raises:
        VertebraError: if two have one name.
    """
    if tuple(names) == known.names:
        return known
    lower = [name.lower() for name in names]
    if twice := [name for name in names if lower.count(name.lower()) > 1]:
        raise VertebraError(f"{where}: two keypoints are called {twice[0]!r}.")
    return Points(tuple(names), flip=mirrored(names))


def unnamed_points(count: int, flip: tuple[int, ...] | None, notes: list[str]) -> Points:
    """Keypoints that have numbers alone; 17 are taken for COCO's of a person, unless they mirror otherwise."""
    if count == len(COCO_PERSON.names) and flip in (None, COCO_PERSON.flip):
        notes.append(
            "17 keypoints without names are taken for COCO's of a person (nose, left_eye, ...); if they are others, "
            "name them in the data"
        )
        return COCO_PERSON
    return Points(tuple(str(i) for i in range(count)))
