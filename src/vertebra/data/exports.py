"""What the formats of annotation tools share: their files, the images these name, shapes, and samples of both kinds."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.data import segments
from vertebra.data.annotations import (
    Annotation,
    Gatherer,
    Listing,
    check_class_names,
    check_keypoint_count,
    first_problem,
    named_keypoints,
    split_folders,
    split_of,
    subfolders,
    unnamed_keypoints,
)
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.data.segments import Segment
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import MAX_NUMBER, parse_json, read_text
from vertebra.images import MAX_PIXELS, SUFFIXES, StoredImage, UnreadableImage, image_size
from vertebra.ops import rle
from vertebra.structures import KeypointSchema, Target

BEGINNING = 1 << 16
"""Bytes of a file by which its format is recognised."""
CANDIDATES = 20
"""Files of one suffix in a folder that are examined; a folder with more has a file per image."""
PLACES = ("", "annotations", "Annotations", "annotation", "labels", "json", "jsons")
"""Folders of a dataset in which annotation files may lie."""
MAX_PATH = 1000
"""Characters in the path of an image; a file that states a longer one is not searched for it."""
MAX_TAILS = 30
"""Ends of a path by which an image is searched."""
IMAGE_PLACES = ("", "images", "imgs", "img", "data", "JPEGImages")
"""Folders of a dataset in which images may lie, by their splits or not."""


class Invalid(VertebraError):
    """An annotation or image that is skipped; the text is a clause, such as `its label is 3, text is expected`."""


@dataclass
class Shape:
    """One object as a tool's file describes it; its class is a name."""

    where: str
    """The file, the image and the object's number, for messages."""
    name: str
    """Its class."""
    box: Sequence[float]
    """x1, y1, x2, y2 in pixels, end exclusive."""
    segment: Segment | None = None
    keypoints: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """x, y in pixels and visibility (1 occluded, 2 visible) by name; those that are not labelled are absent."""
    crowd: bool = False
    area: float | None = None
    """Square pixels; if None the mask's, or else the box's."""
    id: int | None = None
    """Its number in its file or image, from 1."""


@dataclass
class ExportedImage:
    """One image as a tool's file describes it."""

    where: str
    """The file and the image in it, for messages."""
    image: Path | StoredImage
    """Its file, which may be missing, or its place in a larger one."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels, if it is stated."""
    shapes: list[Shape] = field(default_factory=list)
    label: str | None = None
    """Its class as a whole, if it has one."""
    tags: Sequence[str] | None = None
    """Its classes as a whole, where it may have several or none."""
    captions: list[str] = field(default_factory=list)
    """Sentences that describe it."""
    id: int | None = None
    """Its number in its file."""
    pixels: Tensor | None = None
    """The image [C, H, W] uint8 itself, where it is inside of the annotation file."""

    def known_size(self) -> tuple[int, int]:
        """(height, width) as stated, or else of the file; Invalid if neither tells it."""
        if self.size is None:
            try:
                self.size = image_size(self.image)
            except UnreadableImage as error:
                raise Invalid(str(error).removesuffix(".")) from error
        return self.size


class Export:
    """Collects the images of a tool's files and makes the catalogue of them.

    Args:
        path: of the dataset, for messages.
        format: name of the format.
        options: how the dataset is read.
    """

    def __init__(self, path: Path, format: str, options: ReadOptions) -> None:
        self.path = path
        self.format = format
        self.options = options
        self.listing = Listing()
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.rotated = 0
        self.splits: dict[str, list[ExportedImage]] = {}
        self.finders: dict[tuple[Path, str], Callable[..., Path]] = {}

    @contextlib.contextmanager
    def skipping(self, where: str) -> Iterator[str]:
        """Lists what raises Invalid in the block as skipped; the value is `where`."""
        try:
            yield where
        except Invalid as error:
            self.problems.append(f"{where} is skipped: {error}.")

    def images(self, file: Path, split: str) -> Callable[..., Path]:
        """A function from the names that a file gives an image, the most likely one first, to the path of that image.

        A path that does not exist is searched by its end, as files are moved: beside the annotation file, in `images`
        and in folders named after the split.
        """
        key = (file.parent, split)
        if key not in self.finders:
            self.finders[key] = self._finder(*key)
        return self.finders[key]

    def _finder(self, beside: Path, split: str) -> Callable[..., Path]:
        top = beside.parent if split_of(beside.name) and beside.parent.name in PLACES else beside
        top = top.parent if top.name in PLACES else top
        words = ["", *SPLITS[split]]
        folders = list(dict.fromkeys([beside, *(top / place / word for place in IMAGE_PLACES for word in words)]))
        usual = next((folder for place in IMAGE_PLACES[1:] if (folder := top / place).is_dir()), beside)

        def find(*names: str) -> Path:
            for candidate in (other for name in names if len(name) < MAX_PATH for other in _with_suffixes(name)):
                parts = [part for part in re.split(r"[/\\]+", candidate) if part not in ("", ".")]
                for start in range(min(len(parts), MAX_TAILS)):
                    tail = os.path.join(*parts[start:])
                    for folder in folders:
                        path = os.path.normpath(os.path.join(folder, tail))
                        if path in self.listing:
                            return Path(path)
            return usual / (re.split(r"[/\\]+", names[0])[-1] or names[0])[:MAX_PATH]

        return find

    def tagged_images(self, file: Path, split: str) -> Callable[[str], Path]:
        """As `images`, for lists whose images lie in any folder beside them, as `train-jpg` and `img_align_celeba`."""
        find = self.images(file, split)
        beside = [folder.name for folder in subfolders(file.parent)[:CANDIDATES]]
        return lambda name: find(name, *(f"{folder}/{name}" for folder in beside))

    def add(self, split: str, entry: ExportedImage) -> None:
        """Adds an image to a split."""
        self.splits.setdefault(split, []).append(entry)

    def rotated_box(self, box: Sequence[float], centre: tuple[float, float], degrees: float) -> list[float]:
        """The bounding box of a box that is turned clockwise about `centre`; a note will count them."""
        x1, y1, x2, y2 = box
        if not degrees % 360:
            return [x1, y1, x2, y2]
        self.rotated += 1
        return bounds(turned([x1, y1, x2, y1, x2, y2, x1, y2], centre, degrees))

    def catalogue(
        self, classes: Sequence[str] = (), keypoints: Sequence[str] | None = None, labels: Sequence[str] = ()
    ) -> Catalogue:
        """All images as a dataset of tags, of objects, or of captions or one class per image where these are needed or
        all there is.

        Args:
            classes: of objects, in their order; those that occur are added. Alphabetical if empty.
            keypoints: names of the keypoints, in their order; those that occur, if None.
            labels: classes of whole images, as `classes` those of objects.

        Raises:
            VertebraError: if there are no images, or neither objects nor classes nor captions.
        """
        if self.rotated:
            self.notes.append(f"rotated boxes, read as the boxes around them: {self.rotated}")
        splits = self._present_splits()
        entries = [entry for members in splits.values() for entry in members]
        labelled = sum(entry.label is not None for entry in entries)
        fields = self.options.fields
        captioned = any(entry.captions for entry in entries)
        objects = any(entry.shapes for entry in entries)
        tagged = any(entry.tags is not None for entry in entries)
        if tagged and (fields is None or "tags" in fields or not (objects or labelled or captioned)):
            return self._of_tags(splits, labels)
        if (fields is not None and "text" in fields) or (captioned and not objects and not labelled):
            return self._of_captions(splits)
        if labelled and (not objects or (fields is not None and "label" in fields)):
            return self._of_classes(splits, labels)
        if labelled:
            self.notes.append(f"{labelled} images have a class as a whole too, which classification learns")
        return self._of_objects(splits, tuple(classes), keypoints)

    def captioned(self) -> Catalogue:
        """All images as a dataset of captions.

        Raises:
            VertebraError: if no image is there that has one.
        """
        return self._of_captions(self._present_splits())

    def _present_splits(self) -> dict[str, list[ExportedImage]]:
        return {split: list(self._present(self.splits[split])) for split in SPLITS if split in self.splits}

    def _present(self, entries: Iterable[ExportedImage]) -> Iterator[ExportedImage]:
        """The images that are there, with their sizes where objects need them."""
        seen: set[Path | StoredImage] = set()
        for entry in entries:
            count = len(entry.shapes)
            also = f" with its {count} annotations" if count else ""
            stored = entry.pixels is not None or isinstance(entry.image, StoredImage)
            needless = stored or (self.options.missing_ok and entry.size is not None)
            if not needless and str(entry.image) not in self.listing:
                image = escaped(str(entry.image)[:300])
                self.problems.append(f"{entry.where} is skipped{also}: {image} is not there.")
            elif entry.image in seen:
                self.problems.append(f"{entry.where} is skipped{also}: {entry.image} is listed twice.")
            else:
                seen.add(entry.image)
                yield entry

    def _of_classes(self, splits: dict[str, list[ExportedImage]], labels: Sequence[str]) -> Catalogue:
        names = {entry.label for members in splits.values() for entry in members if entry.label is not None}
        classes = check_class_names(list(dict.fromkeys([*labels, *sorted(names)])), self.path)
        index = {name: torch.tensor(i) for i, name in enumerate(classes)}
        samples: dict[str, list[Sample]] = {}
        for split, members in splits.items():
            samples[split] = []
            for entry in members:
                if entry.label is None:
                    self.problems.append(f"{entry.where} is skipped: it has no class.")
                    continue
                target = Target(label=index[entry.label], path=str(entry.image))
                samples[split].append(Sample(entry.image if entry.pixels is None else entry.pixels, target))
        return Catalogue(str(self.path), self.format, classes, samples, self.notes, self.problems)

    def _of_tags(self, splits: dict[str, list[ExportedImage]], order: Sequence[str]) -> Catalogue:
        names = {name for members in splits.values() for entry in members for name in entry.tags or ()}
        if not names:
            raise VertebraError(f"{self.path} has no image with a tag.{first_problem(self.problems)}")
        classes = check_class_names(order if names <= set(order) else sorted(names), self.path)
        index = {name: i for i, name in enumerate(classes)}
        samples: dict[str, list[Sample]] = {}
        for split, members in splits.items():
            samples[split] = []
            for entry in members:
                tags = sorted(index[name] for name in set(entry.tags or ()))
                target = Target(tags=torch.tensor(tags, dtype=torch.int64), path=str(entry.image))
                samples[split].append(Sample(entry.image, target))
        without = sum(not entry.tags for members in splits.values() for entry in members)
        if without:
            total = sum(map(len, splits.values()))
            self.notes.append(f"images without a tag: {without} of {total}, kept as images that have none")
        has = frozenset({"tags"})
        return Catalogue(str(self.path), self.format, classes, samples, self.notes, self.problems, has)

    def _of_captions(self, splits: dict[str, list[ExportedImage]]) -> Catalogue:
        samples: dict[str, list[Sample]] = {}
        for split, members in splits.items():
            samples[split] = []
            for entry in members:
                if not entry.captions:
                    self.problems.append(f"{entry.where} is skipped: it has no caption.")
                    continue
                caption, *others = entry.captions
                target = Target(text=caption, references=tuple(others), id=entry.id, path=str(entry.image))
                samples[split].append(Sample(entry.image, target))
        if not any(samples.values()):
            raise VertebraError(f"{self.path} has no image with a caption.{first_problem(self.problems)}")
        has = frozenset({"text"})
        return Catalogue(str(self.path), self.format, ("caption",), samples, self.notes, self.problems, has)

    def _of_objects(
        self, splits: dict[str, list[ExportedImage]], classes: tuple[str, ...], keypoints: Sequence[str] | None
    ) -> Catalogue:
        shapes = [shape for members in splits.values() for entry in members for shape in entry.shapes]
        names = dict.fromkeys([*classes, *sorted({shape.name for shape in shapes})])
        classes = check_class_names(list(names), self.path)
        order = _keypoint_order(shapes, keypoints)
        schema = self._schema(order)
        index = {name: i for i, name in enumerate(classes)}
        gatherer = Gatherer(self.options.fields, schema)
        gatherer.problems = self.problems
        samples: dict[str, list[Sample]] = {}
        for split, members in splits.items():
            samples[split] = []
            for entry in members:
                with self.skipping(entry.where):
                    annotations = [_annotation(shape, index, order) for shape in entry.shapes]
                    sample = gatherer.sample(entry.image, entry.known_size(), annotations)
                    samples[split].append(sample if entry.pixels is None else replace(sample, image=entry.pixels))
        return gatherer.catalogue(self.path, self.format, classes, samples, self.notes)

    def _schema(self, order: Sequence[str]) -> KeypointSchema | None:
        check_keypoint_count(len(order), str(self.path))
        if not order:
            return None
        if all(name.isdigit() for name in order):
            return unnamed_keypoints(len(order), None, self.notes)
        return named_keypoints(order, str(self.path))


def _with_suffixes(name: str) -> list[str]:
    """The name of an image; with every suffix too, if it has none."""
    return [name] if name.lower().endswith(SUFFIXES) else [name, *(f"{name}{suffix}" for suffix in SUFFIXES)]


def _keypoint_order(shapes: Sequence[Shape], stated: Sequence[str] | None) -> list[str]:
    """The names of keypoints as stated, or else those that occur, numbers by their value before words; none if no
    object has any."""
    names = {name for shape in shapes for name in shape.keypoints}
    if stated is not None:
        return list(stated) if names else []
    return sorted(names, key=lambda name: (not name.isdigit(), len(name) * name.isdigit(), name))


def _annotation(shape: Shape, index: dict[str, int], order: Sequence[str]) -> Annotation:
    keypoints = None
    if order and shape.keypoints:
        keypoints = [value for name in order for value in shape.keypoints.get(name, (0.0, 0.0, 0.0))]
    label = index[shape.name]
    return Annotation(shape.where, label, shape.box, shape.segment, keypoints, shape.crowd, shape.area, shape.id)


# -- files


def beginning(path: Path) -> bytes:
    """The first BEGINNING bytes of a regular file, without white space or a byte order mark before them; nothing if
    it cannot be read."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(BEGINNING).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return b""


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of a suffix in a folder, sorted, hidden ones left out; no file is opened."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    length = len(suffix)
    return [folder / name for name in sorted(n for n in names if n[-length:].lower() == suffix and n[0] != ".")]


def has_files(path: Path, suffix: str, is_format: Callable[[Path], bool]) -> bool:
    """Whether a path has annotation files, as `split_files` lists them."""
    return any(files for files in _files(path, suffix, is_format).values())


def split_files(path: Path, suffix: str, is_format: Callable[[Path], bool]) -> dict[str, Path]:
    """The annotation file of each split: `path` itself, or in it, or in the folders of splits in it.

    Args:
        path: a file, or a folder.
        suffix: of annotation files, in lower case.
        is_format: whether a file with that suffix is of the format; at most CANDIDATES of a folder are examined.

    Raises:
        VertebraError: if a split has two files.
    """
    files = _files(path, suffix, is_format)
    for split, candidates in files.items():
        if len(candidates) > 1:
            names = ", ".join(file.name for file in candidates)
            raise VertebraError(
                f"{candidates[0].parent} has {len(candidates)} annotation files of the {split} split ({names}); give "
                "the path of one of them."
            )
    return {split: candidates[0] for split, candidates in files.items()}


def _files(path: Path, suffix: str, is_format: Callable[[Path], bool]) -> dict[str, list[Path]]:
    if path.is_file():
        matches = path.name.lower().endswith(suffix) and is_format(path)
        return {split_of(path.stem) or "train": [path]} if matches else {}
    if not path.is_dir():
        return {}
    files: dict[str, list[Path]] = {}
    for file in _files_of(path, suffix, is_format):
        files.setdefault(split_of(file.stem) or "train", []).append(file)
    if not files:
        folders = split_folders(path, lambda _: True)
        files = {split: _files_of(folder, suffix, is_format) for split, folder in folders.items()}
    return {split: members for split, members in files.items() if members}


def _files_of(folder: Path, suffix: str, is_format: Callable[[Path], bool]) -> list[Path]:
    for place in PLACES:
        candidates = files_in(folder / place, suffix)
        if len(candidates) <= CANDIDATES and (files := [file for file in candidates if is_format(file)]):
            return files
    return []


def by_split(files: Iterable[Path]) -> dict[str, Path]:
    """Files by the splits that they are named after, train without; in the order of the splits.

    Raises:
        VertebraError: if a split has two files.
    """
    chosen: dict[str, Path] = {}
    for file in files:
        split = split_of(file.stem) or "train"
        if split in chosen:
            raise VertebraError(
                f"{file.parent} has two files of the {split} split ({chosen[split].name}, {file.name}); give the path "
                "of one of them."
            )
        chosen[split] = file
    return {split: chosen[split] for split in SPLITS if split in chosen}


def csv_rows(file: Path, separator: str = ",") -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with its line, its values without white space around them.

    Raises:
        VertebraError: if it cannot be read as CSV in UTF-8.
    """
    reader = csv.reader(read_text(file).splitlines(keepends=True), delimiter=separator)
    try:
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except csv.Error as error:
        raise VertebraError(f"{file}, line {reader.line_num + 1}: cannot be read as CSV ({error}).") from error
    return [(line, row) for line, row in rows if any(row)]


def first_rows(file: Path, separator: str = ",") -> list[list[str]]:
    """The first two rows of a CSV file, fewer if its beginning does not hold them or cannot be read as CSV."""
    lines = beginning(file).decode("utf-8", "replace").splitlines()[:2]
    with contextlib.suppress(csv.Error):
        return [[value.strip() for value in row] for row in csv.reader(lines, delimiter=separator)]
    return []


def by_name(names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    """The values of a row by the names of its columns; Invalid if it has more or fewer."""
    if len(row) != len(names):
        raise Invalid(f"it has {len(row)} values, the header {len(names)}")
    return dict(zip(names, row, strict=True))


# -- values


def parsed_line(content: str) -> Any:
    """What a line of JSON holds; Invalid if it is none."""
    try:
        return parse_json(content, "line")
    except VertebraError as error:
        raise Invalid(f"it is no JSON ({str(error).rstrip('.')})") from error


def stated_split(value: Any, default: str) -> str:
    """The split that a value such as `valid` names, `default` where there is none; Invalid if it names another."""
    if value in (None, ""):
        return default
    if not isinstance(value, str) or value.lower() not in SPLIT_NAMES:
        raise Invalid(f"its split is {shown(value)}, not one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[value.lower()]


def tag_names(values: Any) -> list[str]:
    """The tags of an image from a list, each once; numbers as text. Invalid if one is neither."""
    if not isinstance(values, list):
        raise Invalid(f"its tags are {shown(values)}, a list of text is expected")
    names = [str(value) if type(value) is int else text(value, "tag") for value in values]
    return list(dict.fromkeys(names))


def text(value: Any, what: str) -> str:
    """Text that is not empty, without white space around it; Invalid if it is anything else."""
    if not isinstance(value, str) or not value.strip():
        raise Invalid(f"it has no {what}" if value in (None, "") else f"its {what} is {shown(value)}, text is expected")
    return value.strip()


def number(value: Any, what: str) -> float:
    """A finite number, or the text of one as XML and CSV have it; Invalid if it is anything else."""
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        wrong = f"its {what} is {shown(value)}, a number is expected"
        raise Invalid(f"it has no {what}" if value in (None, "") else wrong) from None
    if not abs(result) <= MAX_NUMBER:  # also what is no number
        raise Invalid(f"its {what} is {result:g}, a number up to {MAX_NUMBER:g} is expected")
    return result


def pairs(values: Any, what: str) -> list[float]:
    """x1, y1, x2, y2, ... from a list of [x, y]; Invalid if it is anything else."""
    if not isinstance(values, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        raise Invalid(f"its {what} is not a list of [x, y]")
    return [number(value, what) for pair in values for value in pair]


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A JSON object; Invalid if it is anything else."""
    if not isinstance(value, dict):
        raise Invalid(f"its {what} is {shown(value)}, a JSON object is expected")
    return value


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(height, width) in pixels as a file states them, None where it does not; Invalid if they are no size."""
    if width in (None, "", 0, "0") or height in (None, "", 0, "0"):
        return None
    size = number(height, "height"), number(width, "width")
    if not all(side >= 1 and side == int(side) for side in size) or size[0] * size[1] > MAX_PIXELS:
        raise Invalid(f"its size is {width} x {height}, 1 to {MAX_PIXELS:,} pixels are expected")
    return int(size[0]), int(size[1])


# -- shapes


def bounds(polygon: Sequence[float]) -> list[float]:
    """The bounding box x1, y1, x2, y2 of points x1, y1, x2, y2, ...; Invalid if there are none."""
    if not polygon:
        raise Invalid("it has no points")
    xs, ys = polygon[::2], polygon[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def polygon_shape(where: str, name: str, polygons: list[list[float]], id: int | None = None) -> Shape:
    """An object of one polygon or several, x1, y1, x2, y2, ... in pixels each."""
    box = bounds([value for polygon in polygons for value in polygon])
    area = segments.polygon_area(polygons[0]) if len(polygons) == 1 else None
    return Shape(where, name, box, polygons, area=area, id=id)


def ellipse_shape(
    where: str,
    name: str,
    centre: tuple[float, float],
    radii: tuple[float, float],
    degrees: float = 0.0,
    id: int | None = None,
) -> Shape:
    """An ellipse of radii (x, y), turned clockwise by `degrees`; its mask is a polygon less than 0.1 pixels off it."""
    (cx, cy), (rx, ry) = centre, radii
    if rx <= 0 or ry <= 0:
        raise Invalid(f"its radii are {rx:g} and {ry:g}")
    count = min(max(12, math.ceil(8 * math.sqrt(max(rx, ry)))), 1000)
    angles = [2 * math.pi * i / count for i in range(count)]
    polygon = turned(
        [value for a in angles for value in (cx + rx * math.cos(a), cy + ry * math.sin(a))], centre, degrees
    )
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    width, height = math.hypot(rx * cosine, ry * sine), math.hypot(rx * sine, ry * cosine)
    box = [cx - width, cy - height, cx + width, cy + height]
    return Shape(where, name, box, [[round(value, 3) for value in polygon]], area=math.pi * rx * ry, id=id)


def mask_shape(
    where: str, name: str, mask: np.ndarray, corner: tuple[int, int], size: tuple[int, int], id: int | None = None
) -> Shape:
    """An object of a mask [h, w] bool whose top left pixel is at `corner` (x, y) of an image of (height, width)."""
    x, y = corner
    inside = mask[max(-y, 0) : max(size[0] - y, 0), max(-x, 0) : max(size[1] - x, 0)]
    x, y, crop = rle.crop_to_pixels(max(x, 0), max(y, 0), inside)
    if not crop.numel():
        raise Invalid("its mask has no pixel in the image")
    box = [float(value) for value in (x, y, x + crop.shape[1], y + crop.shape[0])]
    return Shape(where, name, box, rle.encode_mask(crop, (x, y), size), area=float(crop.sum()), id=id)


def turned(points: Sequence[float], centre: tuple[float, float], degrees: float) -> list[float]:
    """Points x1, y1, x2, y2, ... turned clockwise, as seen on the screen, about `centre`."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result: list[float] = []
    for x, y in zip(points[::2], points[1::2], strict=True):
        dx, dy = x - centre[0], y - centre[1]
        result += [centre[0] + dx * cosine - dy * sine, centre[1] + dx * sine + dy * cosine]
    return result


def attach(
    keypoints: dict[str, tuple[float, float, float]], name: str, point: Sequence[float], visibility: float
) -> None:
    """Adds a keypoint at `point` (x, y); Invalid if it is not one point, or there is one of that name."""
    if len(point) != 2:
        raise Invalid(f"its keypoint {shown(name)} has {len(point) // 2} points, one is expected")
    if name in keypoints:
        raise Invalid(f"it is another keypoint {shown(name)} of its object")
    keypoints[name] = (point[0], point[1], visibility)


def around(keypoints: dict[str, tuple[float, float, float]]) -> list[float]:
    """The bounding box of keypoints, of the labelled ones."""
    return bounds([value for x, y, _ in keypoints.values() for value in (x, y)])
