"""Facial landmarks: 300W's `.pts` files beside their images, WFLW's lists, and CSV lists as of HRNet's repository.

- `.pts`: `version: 1`, `n_points: 68` and x y of each point in braces. They count pixels from 1, so a point here is
  x - 1, y - 1.
- WFLW, `list_98pt_*.txt`: x y of 98 points, then maybe x1 y1 x2 y2 of a box and six attributes, then the image.
- CSV: `image_name, scale, center_w, center_h`, in AFLW's `box_size` after scale, then x, y of each point. The box is
  the square around the centre with a side of `box_size`, else of 200 pixels times the scale; it may leave the image.

Points of CSV and WFLW are read as they are. A point without a positive coordinate is not labelled.

Source: https://ibug.doc.ic.ac.uk/resources/300-W/; https://wywu.github.io/projects/LAB/WFLW.html; lib/datasets and
lib/utils/transforms.py of https://github.com/HRNet/HRNet-Facial-Landmark-Detection.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vertebra.data.annotations import (
    Annotation,
    Gatherer,
    Listing,
    box_of_keypoints,
    check_keypoint_count,
    split_of,
    subfolders,
)
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample
from vertebra.data.exports import CANDIDATES, Invalid, beginning, csv_rows, files_in, first_rows, number
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, shown
from vertebra.files import read_text
from vertebra.images import SUFFIXES, UnreadableImage, find_images, image_size
from vertebra.structures import KeypointSchema

PRIORITY = 9
FIELDS = frozenset({"boxes", "labels", "keypoints", "crowd", "areas"})
TITLE = "facial landmarks"
CLASS = "face"
LIST = re.compile(r"list_98pt_.*\.txt", re.IGNORECASE)
WFLW_POINTS = 98
WFLW_VALUES = (197, 201, 207)
"""Values in a line of WFLW's lists: points and image; with the box; with the attributes too."""
LIST_PLACES = [
    os.path.join(top, name)
    for top in ("", "annotations", "WFLW_annotations")
    for name in ("", "list_98pt_rect_attr_train_test")
]
"""Folders of a dataset in which lists may lie."""
IMAGE_PLACES = [os.path.join(up, name) for up in ("", "..", "../..") for name in ("", "images", "WFLW_images")]
"""Folders, seen from a list, that its paths may be relative to."""
SCALE = 200
"""Pixels that a face has on a side whose scale is 1 in a CSV list."""
DEPTH = 2
"""Levels of folders below the one that is named in which .pts files may begin."""
MAX_PTS = 1 << 20
"""Bytes of a .pts file."""
PTS = re.compile(r"\s*version:\s*1\s+n_points:\s*([0-9]{1,6})\s*\{([^{}]*)\}\s*")
PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    19: ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)),  # AFLW
    29: (  # COFW
        *((0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)),
    ),
    68: (  # 300W: contour, eyebrows, nose, eyes, outer and inner lip
        *((i, 16 - i) for i in range(8)),
        *((i, 43 - i) for i in range(17, 22)),
        *((31, 35), (32, 34)),
        *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
        *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)),
    ),
    98: (  # WFLW: contour, eyebrows, nose, eyes, outer and inner lip, pupils
        *((i, 32 - i) for i in range(16)),
        *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
        *((55, 59), (56, 58)),
        *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
        *((76, 82), (77, 81), (78, 80), (83, 87), (84, 86), (88, 92), (89, 91), (93, 95)),
        (96, 97),
    ),
}
"""Points that take the place of one another in the mirror image, by the number of points; the others keep theirs."""


def recognise(path: Path) -> bool:
    """Whether it is a list, or a folder with lists, or one with .pts files in itself or the folders in it."""
    return bool(_lists(path)) or _has_points(path)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The faces of lists, or of all .pts files below a folder. Keypoints are called by their numbers, from 0.

    The split of a list is in its name, that of a .pts file the name of a folder (`trainset`, `testset`). Boxes are as
    annotated, or else around the labelled points.

    Raises:
        VertebraError: if a list is damaged, or a split has several that are not parts of one.
    """
    notes: list[str] = []
    problems: list[str] = []
    faces: dict[str, list[_Face]] = {}
    if lists := _lists(path):
        for split, file in _by_split(lists, notes).items():
            faces[split] = list(_of_list(file, problems))
    else:
        faces = _of_points(path, problems, notes)
    counts = Counter(len(face.points) // 2 for members in faces.values() for face in members)
    count = counts.most_common(1)[0][0] if counts else 0
    check_keypoint_count(count, str(path))
    schema = KeypointSchema(tuple(map(str, range(count))), flip_indices=_flip_indices(count))
    gatherer = Gatherer(options.fields, schema)
    gatherer.problems = problems
    splits = {split: _samples(faces[split], count, gatherer) for split in SPLITS if split in faces}
    return gatherer.catalogue(path, "landmarks", (CLASS,), splits, notes)


@dataclass
class _Face:
    where: str
    """The file and line, for messages."""
    line: int
    image: Path
    points: list[float]
    """x, y of each in turn."""
    box: list[float] | None = None
    """x1, y1, x2, y2 as annotated."""
    square: bool = False
    """Whether the box keeps its size where it leaves the image: errors are divided by it."""


def _flip_indices(count: int) -> tuple[int, ...]:
    indices = list(range(count))
    for i, j in PAIRS.get(count, ()):
        indices[i], indices[j] = j, i
    return tuple(indices)


def _samples(faces: Sequence[_Face], count: int, gatherer: Gatherer) -> list[Sample]:
    """One sample for each image, with all its faces."""
    of_image: dict[Path, list[_Face]] = {}
    for face in faces:
        of_image.setdefault(face.image, []).append(face)
    samples: list[Sample] = []
    for image, members in of_image.items():
        try:
            size = image_size(image)
        except UnreadableImage as error:
            gatherer.problems += [f"{face.where} is skipped: {error}" for face in members]
            continue
        annotations = []
        lines: dict[tuple[float, ...], int] = {}
        for face in members:
            try:
                if (first := lines.setdefault(tuple(face.points), face.line)) != face.line:
                    raise Invalid(f"it repeats line {first}")
                annotations.append(_annotation(face, count, size))
            except Invalid as error:
                gatherer.problems.append(f"{face.where} is skipped: {error}.")
        samples.append(gatherer.sample(image, size, annotations))
    return samples


def _annotation(face: _Face, count: int, size: tuple[int, int]) -> Annotation:
    if len(face.points) != 2 * count:
        raise Invalid(f"it has {len(face.points) // 2} points, most of the faces {count}")
    keypoints: list[float] = []
    for x, y in zip(face.points[::2], face.points[1::2], strict=True):
        keypoints += [x, y, 2] if x > 0 or y > 0 else [0, 0, 0]
    if not any(keypoints):
        raise Invalid("none of its points has a positive coordinate")
    box, area = box_of_keypoints(keypoints, size)
    return Annotation(
        face.where, 0, face.box or box, keypoints=keypoints, area=area, id=face.line, clipped=not face.square
    )


# -- lists


def _lists(path: Path) -> list[Path]:
    """The lists at a path: itself, or those in one of the usual folders."""
    if not path.is_dir():
        return [path] if _is_list(path) else []
    for place in LIST_PLACES:
        tables = files_in(path / place, ".csv")
        candidates = [*tables[: CANDIDATES if len(tables) <= CANDIDATES else 0], *files_in(path / place, ".txt")]
        if files := [file for file in candidates if _is_list(file)]:
            return files
    return []


def _is_list(file: Path) -> bool:
    if file.suffix.lower() == ".csv":
        return any(_first_point(row) for row in first_rows(file)[:1])
    return bool(LIST.fullmatch(file.name)) and file.is_file()


def _first_point(header: Sequence[str]) -> int:
    """The column of the first point in a CSV list, 0 if it is none: an even number of columns follow those of the
    centre."""
    names = [name.lower() for name in header]
    for first in (4, 5):
        if names[1:2] == ["scale"] and names[first - 2 : first] == ["center_w", "center_h"]:
            return first if len(names) > first and not (len(names) - first) % 2 else 0
    return 0


def _by_split(lists: Sequence[Path], notes: list[str]) -> dict[str, Path]:
    """The list of each split; a longer name is that of a part (`..._test` and `..._test_blur`)."""
    files: dict[str, list[Path]] = {}
    for file in lists:
        files.setdefault(split_of(file.stem) or "train", []).append(file)
    chosen: dict[str, Path] = {}
    for split, candidates in files.items():
        whole, *parts = sorted(candidates, key=lambda file: len(file.stem))
        names = ", ".join(file.name for file in parts)
        if not all(file.stem.startswith(f"{whole.stem}_") for file in parts):
            raise VertebraError(
                f"{whole.parent} has {len(candidates)} lists of the {split} split ({whole.name}, {names}); give the "
                "path of one of them."
            )
        if parts:
            notes.append(f"ignored, parts of {whole.name} by their names: {names}; give the path of one to read it")
        chosen[split] = whole
    return chosen


def _of_list(file: Path, problems: list[str]) -> Iterator[_Face]:
    """The faces of a list, in its order."""
    tops = list(dict.fromkeys(os.path.normpath(file.parent / place) for place in IMAGE_PLACES))
    listing = Listing()
    is_csv = file.suffix.lower() == ".csv"
    if is_csv:
        (_, header), *rows = csv_rows(file)
    else:
        header, rows = [], [(i, row.split()) for i, row in enumerate(read_text(file).split("\n"), 1) if row.strip()]
    for line, row in rows:
        where = f"{file}, line {line}"
        try:
            name, points, box = _csv_face(header, row) if is_csv else _wflw_face(row)
            paths = [os.path.join(top, name) for top in tops]
            image = next((path for path in paths if path in listing), None)
            if image is None:
                raise Invalid(f"its image {shown(name)} is not there, neither beside the list nor in images/")
            yield _Face(where, line, Path(image), points, box, square=is_csv)
        except Invalid as error:
            problems.append(f"{where} is skipped: {error}.")


def _csv_face(header: Sequence[str], row: Sequence[str]) -> tuple[str, list[float], list[float]]:
    """Path of the image, points, and box."""
    if len(row) != len(header):
        raise Invalid(f"it has {len(row)} values, the header {len(header)}")
    first = _first_point(header)
    x, y = (number(row[first - 2 + i], what) for i, what in enumerate(("center_w", "center_h")))
    side = number(row[2], "box_size") if first == 5 else SCALE * number(row[1], "scale")
    box = [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    return row[0], _numbers(row[first:]), box


def _wflw_face(row: Sequence[str]) -> tuple[str, list[float], list[float] | None]:
    """Path of the image, points, and box."""
    if len(row) not in WFLW_VALUES:
        raise Invalid(f"it has {len(row)} values, {' or '.join(map(str, WFLW_VALUES))} are expected")
    numbers = _numbers(row[: 2 * WFLW_POINTS + (4 if len(row) > WFLW_VALUES[0] else 0)])
    return row[-1], numbers[: 2 * WFLW_POINTS], numbers[2 * WFLW_POINTS :] or None


def _numbers(values: Sequence[str]) -> list[float]:
    return [number(value, f"{'xy'[i % 2]} of point {i // 2}") for i, value in enumerate(values)]


# -- .pts


def _has_points(path: Path) -> bool:
    """Whether the first .pts file in a folder, or in those in it, looks like 300W's."""
    folders = [path] if path.is_dir() else []
    for _ in range(DEPTH + 1):
        for folder in folders:
            if files := files_in(folder, ".pts"):
                return b"n_points:" in beginning(files[0])
        folders = [below for folder in folders for below in subfolders(folder)][:CANDIDATES]
    return False


def _of_points(path: Path, problems: list[str], notes: list[str]) -> dict[str, list[_Face]]:
    """The faces of all .pts files below a folder, by split."""
    listing = Listing()
    faces: dict[str, list[_Face]] = {}
    unnamed: set[str] = set()
    files = find_images(path, (".pts",))
    for file in files:
        split = _split_of_folders([*reversed(file.parent.relative_to(path).parts), path.name])
        if not split:
            unnamed.add(str(file.parent))
        try:
            face = _Face(str(file), 1, _image_beside(file, listing), _points(file))
            faces.setdefault(split or "train", []).append(face)
        except VertebraError as error:
            problems.append(f"{file} is skipped: {str(error).removesuffix('.')}.")
    if unnamed and set(faces) - {"train"}:
        names = ", ".join(sorted(unnamed)[:3])
        notes.append(f"folders whose names are of no split, read as train: {len(unnamed)}, such as {names}")
    stems = {file.with_suffix("") for file in files}
    every = [folder / name for folder in {file.parent for file in files} for name in listing.names(folder)]
    every = [image for image in every if image.name.lower().endswith(SUFFIXES) and not image.name.startswith(".")]
    if rest := [image for image in every if image.with_suffix("") not in stems]:
        notes.append(f"images without a .pts file, which are ignored: {len(rest)}, {min(rest)} for one")
    return faces


def _split_of_folders(names: Sequence[str]) -> str:
    """The split that the first of the folders is called after that is, `testset` as `test`; or nothing."""
    splits = (SPLIT_NAMES.get(name.lower().removesuffix("set").rstrip("_-"), "") for name in names)
    return next(filter(None, splits), "")


def _image_beside(file: Path, listing: Listing) -> Path:
    suffixes = [ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
    for suffix in suffixes:
        if (image := file.with_suffix(suffix)) in listing:
            return image
    raise Invalid("there is no image of its name beside it")


def _points(file: Path) -> list[float]:
    """The points of a .pts file, counted from 0."""
    text = read_text(file, MAX_PTS)
    match = PTS.fullmatch(text)
    if match is None:
        raise Invalid("it is not version: 1, n_points: and the points in braces")
    points: list[float] = []
    for line, words in enumerate((row.split() for row in match[2].split("\n")), text[: match.start(2)].count("\n") + 1):
        if words and len(words) != 2:
            raise Invalid(f"line {line} has {len(words)} values, x and y are expected")
        points += [number(word, f"{name} in line {line}") - 1 for name, word in zip("xy", words, strict=False)]
    if len(points) != 2 * int(match[1]):
        raise Invalid(f"n_points is {match[1]}, but it has {len(points) // 2} points")
    return points
