"""What the formats of objects share: annotations to samples, and a sentence for each annotation that is wrong."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vertebra.data import segments
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample
from vertebra.data.segments import Segment, reaches_far
from vertebra.errors import VertebraError, shown
from vertebra.files import are_numbers, is_number, read_json
from vertebra.images import SUFFIXES, StoredImage
from vertebra.structures import COCO_PERSON, KeypointSchema, Target

MIN_SIDE = 0.01
"""Pixels; a box with a shorter side is an error."""
CLASSES = "classes.json"
"""The file that names classes which are numbers."""
MAX_KEYPOINTS = 1000
"""Keypoints that each object of a dataset may have."""
MAX_NAME = 1000
"""Characters in the name of a class."""
CROWD = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True, "": False, None: False}
"""Whether an object is a crowd region, by the values that files have for it."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object as a dataset's file describes it, with nothing checked but its class: any value may stand anywhere."""

    where: str
    """The file and the object's number or line, for messages."""
    label: int
    """Index of its class."""
    box: Sequence[float]
    """x1, y1, x2, y2 in pixels, end exclusive."""
    segment: Segment | None = None
    keypoints: Sequence[float] | None = None
    """x, y, visibility of each keypoint in turn."""
    crowd: Any = False
    """One of CROWD."""
    area: float | None = None
    """As annotated; if None the mask's, or else the box's."""
    id: int | None = None
    """In its file: COCO's id, or the object's or line's number, from 1."""
    clipped: bool = True
    """Whether its box ends at the border of the image."""


class Gatherer:
    """Makes samples from annotations, checks every annotation, and records those that it skips.

    Args:
        fields: the fields of Target to fill; None for all. With `masks`, annotations without a mask are skipped.
        keypoints: the keypoints that each object has, if the dataset has any.
    """

    def __init__(self, fields: frozenset[str] | None, keypoints: KeypointSchema | None = None) -> None:
        self.fields = fields
        self.keypoints = keypoints
        self.problems: list[str] = []
        self.maskless: list[str] = []
        self.has: set[str] = {"boxes"}
        self.objects = 0
        self.crowds = 0
        self.clipped = 0

    def sample(
        self, image: Path | StoredImage, size: tuple[int, int], annotations: Iterable[Annotation], id: int | None = None
    ) -> Sample:
        """The sample of an image of (height, width) `size`, with every annotation that is valid."""
        valid: list[Annotation] = []
        boxes: list[list[float]] = []
        for annotation in annotations:
            fault = self._fault(annotation, size)
            if fault:
                self.problems.append(f"{annotation.where} is skipped: {fault}.")
                continue
            if annotation.segment:
                self.has.add("masks")
            if annotation.keypoints:
                self.has.add("keypoints")
            self.crowds += CROWD[annotation.crowd]
            self.objects += not CROWD[annotation.crowd]
            if not annotation.segment:
                self.maskless.append(annotation.where)
                if self._requires("masks"):
                    continue
            valid.append(annotation)
            boxes.append(self._clip(annotation.box, size) if annotation.clipped else list(annotation.box))
        areas = [
            self._area(annotation, box, size) if annotation.area is None else annotation.area
            for annotation, box in zip(valid, boxes, strict=True)
        ]
        target = Target(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([annotation.label for annotation in valid], dtype=torch.int64),
            crowd=torch.tensor([CROWD[annotation.crowd] for annotation in valid], dtype=torch.bool),
            areas=torch.tensor(areas, dtype=torch.float32),
            size=size,
            id=id,
            path=str(image),
        )
        if self.keypoints and self._fills("keypoints"):
            count = len(self.keypoints.names)
            absent = [0.0] * (3 * count)
            keypoints = [_labelled(annotation.keypoints or absent) for annotation in valid]
            target.keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(-1, count, 3)
        segments_of: tuple[Segment, ...] = ()
        if self._fills("masks"):
            segments_of = tuple(_usable(annotation.segment) for annotation in valid)
        ids = tuple(annotation.id for annotation in valid if annotation.id is not None)
        return Sample(image, target, segments_of, ids)

    def catalogue(
        self,
        path: Path,
        format: str,
        classes: tuple[str, ...],
        splits: dict[str, list[Sample]],
        notes: Sequence[str] = (),
        category_ids: tuple[int, ...] = (),
    ) -> Catalogue:
        """The samples as the catalogue of a dataset.

        Raises:
            VertebraError: if it has no images, or no object in any.
        """
        if not any(splits.values()):
            raise VertebraError(f"{path} has no images.{first_problem(self.problems)}")
        if not self.objects and self.crowds:
            raise VertebraError(
                f"{path}: all its {self.crowds} objects are marked as crowd (COCO's iscrowd, VOC's difficult), which "
                "is ignored in training and evaluation. CVAT marks every painted mask so: set iscrowd to 0, or export "
                "polygons."
            )
        if not self.objects:
            raise VertebraError(f"{path} has images but not one object.{first_problem(self.problems)}")
        notes = list(notes)
        if self.crowds > self.objects:
            notes.append(
                f"{self.crowds} of {self.crowds + self.objects} objects are marked as crowd (iscrowd, difficult): "
                "they are ignored in training and evaluation"
            )
        schema = self.keypoints if self._requires("keypoints") else None
        names = schema.names if schema else ()
        flipped = (schema.flip_indices if schema else ()) or tuple(range(len(names)))
        alone = [name for i, name in enumerate(names) if flipped[i] == i and _flipped_name(name) != name.lower()]
        if alone:
            notes.append(
                f"keypoints that name a side and have no counterpart: {', '.join(map(shown, alone[:4]))}"
                f"{', ...' * (len(alone) > 4)}; in horizontally flipped images they keep their index"
            )
        elif schema and flipped == tuple(range(len(names))):
            notes.append(
                "no keypoint name says left or right: in horizontally flipped images each keypoint keeps its index; "
                "where that is wrong, train with --augment.flip=0"
            )
        if self.clipped:
            notes.append(f"boxes clipped to their image, which they left by more than a pixel: {self.clipped}")
        if "masks" in self.has and self.maskless:
            if self._requires("masks"):
                self.problems += [f"{where} is skipped: it has a box but no mask." for where in self.maskless]
            else:
                notes.append(f"objects without a mask: {len(self.maskless)}, {self.maskless[0]} for one")
        if "masks" not in self.has:  # a segment for each object or none at all
            splits = {split: [replace(sample, segments=()) for sample in samples] for split, samples in splits.items()}
        return Catalogue(
            str(path),
            format,
            classes,
            splits,
            notes,
            self.problems,
            frozenset(self.has),
            category_ids,
            self.keypoints if "keypoints" in self.has else None,
        )

    def _fills(self, field: str) -> bool:
        return self.fields is None or field in self.fields

    def _requires(self, field: str) -> bool:
        return self.fields is not None and field in self.fields

    def _fault(self, annotation: Annotation, size: tuple[int, int]) -> str:
        if not are_numbers(annotation.box) or len(annotation.box) != 4:
            return f"its box is {shown(annotation.box)}, not four numbers up to 1e9"
        x1, y1, x2, y2 = annotation.box
        height, width = size
        if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
            return f"its box is {x2 - x1:g} x {y2 - y1:g} pixels (width x height)"
        if min(x2, width) - max(x1, 0) < MIN_SIDE or min(y2, height) - max(y1, 0) < MIN_SIDE:
            return f"its box from {x1:g}, {y1:g} to {x2:g}, {y2:g} is outside the image ({width} x {height} pixels)"
        if reaches_far(annotation.box, size):
            return f"its box from {x1:g}, {y1:g} to {x2:g}, {y2:g} {_far(size)}"
        if annotation.area is not None and not is_number(annotation.area, 0, 9 * height * width):
            return f"its area is {shown(annotation.area)}, not 0 to {9 * height * width} square pixels"
        if not isinstance(annotation.crowd, int | str | None) or annotation.crowd not in CROWD:
            return f"its mark as crowd or difficult is {shown(annotation.crowd)}, 0 or 1 is expected"
        if _is_given(annotation.segment) and (fault := segments.fault(annotation.segment, size)):
            return fault
        if annotation.keypoints is not None and _is_given(annotation.keypoints) and self.keypoints:
            return _fault_of_keypoints(annotation.keypoints, self.keypoints.names, size)
        return ""

    def _area(self, annotation: Annotation, box: Sequence[float], size: tuple[int, int]) -> float:
        segment = _usable(annotation.segment)
        if segment and isinstance(segment, list | dict):
            return float(segments.crop(segment, size, annotation.where)[2].sum())
        return (box[2] - box[0]) * (box[3] - box[1])

    def _clip(self, box: Sequence[float], size: tuple[int, int]) -> list[float]:
        x1, y1, x2, y2 = box
        height, width = size
        self.clipped += max(-x1, -y1, x2 - width, y2 - height) > 1
        return [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]


def first_problem(sentences: Sequence[str]) -> str:
    """The end of a message: the first of the problems; empty if there are none."""
    return f" The first of {len(sentences)} problems: {sentences[0]}" if sentences else ""


def _is_given(value: Any) -> bool:
    """Whether an entry that may be missing is there; an empty list is none."""
    return value is not None and not (isinstance(value, list) and not value)


def _far(size: tuple[int, int]) -> str:
    return f"reaches further beyond the image ({size[1]} x {size[0]} pixels) than its side"


def _usable(segment: Segment | None) -> Segment:
    """Without polygons of one or two points, which COCO's own tools take for boxes; [] for no mask."""
    if isinstance(segment, list):
        return [polygon for polygon in segment if len(polygon) >= 6]
    return [] if segment is None else segment


def _labelled(keypoints: Sequence[float]) -> list[float]:
    """The keypoints, 0 where they are not labelled: files have anything there."""
    return [value if keypoints[i - i % 3 + 2] else 0.0 for i, value in enumerate(keypoints)]


def _fault_of_keypoints(keypoints: Any, names: Sequence[str], size: tuple[int, int]) -> str:
    if not isinstance(keypoints, list | tuple):
        return f"its keypoints are {shown(keypoints)}, not a list of numbers up to 1e9"
    if len(keypoints) != 3 * len(names):
        return f"its keypoints are {len(keypoints)} numbers, not three for each of {len(names)}"
    for name, i in zip(names, range(0, len(keypoints), 3), strict=True):
        *point, visibility = keypoints[i : i + 3]
        if not are_numbers([visibility]) or visibility not in (0, 1, 2):
            return (
                f"the visibility of its keypoint {shown(name)} is {shown(visibility)}, not 0 (not labelled), "
                "1 (occluded) or 2 (visible)"
            )
        if visibility and not are_numbers(point):
            return f"its keypoint {shown(name)} is at {shown(point)}, not two numbers up to 1e9"
        if visibility and reaches_far(point, size):
            return f"its keypoint {shown(name)} at {point[0]:g}, {point[1]:g} {_far(size)}"
    return ""


class Listing:
    """The files that exist, by one listing per folder: asking for each of 100,000 files takes minutes."""

    def __init__(self) -> None:
        self.folders: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str | Path) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def names(self, folder: str | Path) -> frozenset[str]:
        """The names of everything in a folder; none if it is not there."""
        folder = str(folder) or "."
        if folder not in self.folders:
            self.folders[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        return self.folders[folder]


def split_of(name: str) -> str:
    """The split in a file's or folder's name, such as `val` in `instances_val2017`; or nothing."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, aliases in SPLITS.items() for word in words if word in aliases), "")


def split_folders(path: Path, holds_data: Callable[[Path], bool]) -> dict[str, Path]:
    """The folders in `path` that are named after a split and for which `holds_data` is true."""
    names = sorted(name for name in os.listdir(path) if name.lower() in SPLIT_NAMES)
    folders = {SPLIT_NAMES[name.lower()]: path / name for name in names}
    return {split: folder for split, folder in folders.items() if folder.is_dir() and holds_data(folder)}


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those that archives made on a Mac contain."""
    with os.scandir(path) as entries:
        listed = [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
    # A link that leads to itself is no folder; `is_dir` would raise.
    names = [e.name for e in listed if (os.path.isdir(e.path) if e.is_symlink() else e.is_dir())]
    return [path / name for name in sorted(names)]


def holds_images(folder: Path) -> bool:
    """Whether images lie in a folder or further down."""
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def mirror_indices(names: Sequence[str]) -> tuple[int, ...]:
    """Index that each keypoint takes in the mirror image: `left_eye` that of `right_eye`; its own without a
    counterpart."""
    places = {name.lower(): i for i, name in enumerate(names)}
    return tuple(places.get(_flipped_name(name), i) for i, name in enumerate(names))


def _flipped_name(name: str) -> str:
    """The name of the other side: `right_eye` of `left_eye`, also of l_eye and eye.R; its own if it names none."""
    other = {"left": "right", "right": "left", "l": "r", "r": "l"}
    return re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", lambda match: other[match[0]], name.lower())


def box_of_keypoints(keypoints: Sequence[float], size: tuple[int, int]) -> tuple[list[float], float]:
    """The box and the area of an object that is annotated by its keypoints alone.

    Args:
        keypoints: x, y in pixels and visibility of each keypoint in turn, at least one of which is labelled.
        size: (height, width) of the image.

    Returns:
        The rectangle around the labelled keypoints, x1, y1, x2, y2 in pixels, enlarged on every side by a quarter of
        its longer side, a pixel at least, but not beyond the image; and the area of the rectangle before that, in
        square pixels, 1 at least.
    """
    labelled = [keypoints[i : i + 2] for i in range(0, len(keypoints), 3) if keypoints[i + 2]]
    corners = [(min(values), max(values)) for values in zip(*labelled, strict=True)]
    sides = [high - low for low, high in corners]
    margin = max(max(sides) / 4, 1)
    # Keypoints outside of the image stay in the box, whose checks see them.
    starts = [min(low, max(low - margin, 0)) for low, _ in corners]
    ends = [max(high, min(high + margin, side)) for (_, high), side in zip(corners, reversed(size), strict=True)]
    return [*starts, *ends], max(sides[0] * sides[1], 1)


def check_flip_indices(flip_indices: Any, count: int, where: str) -> tuple[int, ...]:
    """The index that each of `count` keypoints takes in the mirror image, as a dataset states it (YOLO's flip_idx).

    Raises:
        VertebraError: if it does not name each index once, or flipping twice does not give the identity.
    """
    numbers = isinstance(flip_indices, list) and all(type(index) is int for index in flip_indices)
    if not numbers or sorted(flip_indices) != list(range(count)):
        raise VertebraError(f"{where}: flip_idx is {shown(flip_indices)}, each of 0 to {count - 1} once is expected.")
    if wrong := [i for i in range(count) if flip_indices[flip_indices[i]] != i]:
        i, j = wrong[0], flip_indices[wrong[0]]
        raise VertebraError(f"{where}: flip_idx makes {i} {j} in the mirror, but {j} {flip_indices[j]}.")
    return tuple(flip_indices)


def check_keypoint_count(count: int, where: str) -> None:
    """Raises if objects have too many keypoints for any dataset; the number is checked before memory is taken."""
    if count > MAX_KEYPOINTS:
        raise VertebraError(f"{where}: its objects have {count:,} keypoints; at most {MAX_KEYPOINTS:,} are read.")


def check_class_names(names: Sequence[Any], where: object) -> tuple[str, ...]:
    """The names of a dataset's classes.

    Raises:
        VertebraError: if one is not text, is blank or very long, or stands there twice.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME:
            raise VertebraError(f"{where}: a class is called {shown(name)}; a name is expected.")
        if name in seen:
            raise VertebraError(f"{where}: two classes are called {shown(name)}.")
        seen.add(name)
    return tuple(names)


def class_list(folder: Path) -> tuple[str, ...]:
    """The names of classes that are numbers, from the file CLASSES in a folder; none if it is not there.

    Raises:
        VertebraError: if it is no list of names, or mapping of the numbers to names.
    """
    path = folder / CLASSES
    if not path.is_file():
        return ()
    names = read_json(path)
    if isinstance(names, dict):  # "names" as the classes of label maps have it
        names = next((names[key] for key in ("classes", "names") if key in names), names)
    if isinstance(names, dict):  # of numbers to names
        missing = [i for i in range(len(names)) if str(i) not in names]
        if missing:
            raise VertebraError(f"{path} has no name for class {missing[0]}; its keys must be 0, 1, 2, ...")
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise VertebraError(f"{path} is not a JSON list of class names, but {shown(names)}.")
    return check_class_names([str(name) if type(name) is int else name for name in names], path)


def named_keypoints(names: Sequence[str], where: str) -> KeypointSchema:
    """The schema of keypoints that have names alone; COCO's of a person if the names are its.

    Raises:
        VertebraError: if two have the same name, or they are too many.
    """
    check_keypoint_count(len(names), where)
    if tuple(names) == COCO_PERSON.names:
        return COCO_PERSON
    if blank := [name for name in names if not name.strip()]:
        raise VertebraError(f"{where}: a keypoint is called {shown(blank[0])}; a name is expected.")
    counts = Counter(name.lower() for name in names)
    if twice := [name for name in names if counts[name.lower()] > 1]:
        raise VertebraError(f"{where}: two keypoints are called {shown(twice[0])}.")
    return KeypointSchema(tuple(names), flip_indices=mirror_indices(names))


def unnamed_keypoints(count: int, flip_indices: tuple[int, ...] | None, notes: list[str]) -> KeypointSchema:
    """The schema of keypoints without names; 17 are taken for COCO's of a person, unless they flip otherwise."""
    if count == len(COCO_PERSON.names) and flip_indices in (None, COCO_PERSON.flip_indices):
        notes.append(
            "17 keypoints without names are taken for COCO's of a person (nose, left_eye, ...); if they are others, "
            "name them in the data"
        )
        return COCO_PERSON
    return KeypointSchema(tuple(str(i) for i in range(count)))
