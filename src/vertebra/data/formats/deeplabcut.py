"""DeepLabCut's labelled frames: `CollectedData_SCORER.csv` beside the images of each video.

Rows of the header are scorer, individuals (if there are several animals), bodyparts and coords. A row after them has
the path of an image, in one column or in three, and x, y of each body part in pixels, empty where it is not labelled.
The HDF5 files beside the lists hold the same and are not read.

Source: DeepLabCut 3, `deeplabcut/generate_training_dataset` and the demo projects in `examples/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertebra.data.annotations import Annotation, Gatherer, Listing, box_of_keypoints, named_keypoints, subfolders
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.exports import Invalid, csv_rows, files_in, first_rows, number
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import read_yaml
from vertebra.images import SUFFIXES, UnreadableImage, image_size
from vertebra.structures import KeypointSchema

PRIORITY = 9
FIELDS = frozenset({"boxes", "labels", "keypoints", "crowd", "areas"})
TITLE = "DeepLabCut CSV"
FOLDER = "labeled-data"
"""Folder of a project that holds a folder for each video."""
CONFIG = "config.yaml"
HEADER = ("scorer", "individuals", "bodyparts", "coords")
"""First values of the rows of the header, in their order; individuals may be missing."""
CLASS = "animal"


def recognise(path: Path) -> bool:
    """Whether it is a project, its config.yaml, its folder of videos, the folder of one video, or a list of labels."""
    return bool(_lists(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The frames of all videos; each individual with a labelled body part is an object, `single` too.

    The box of an object is around its keypoints. Keypoints are called as the body parts, and joined by the skeleton of
    the project's config.yaml.

    Raises:
        VertebraError: if a list or config.yaml is damaged, or a video has lists of several scorers.
    """
    notes: list[str] = []
    lists = _lists(path)
    config_file, config = _config(lists[0])
    tables = [_Table.load(file) for file in _of_one_scorer(lists, config.get("scorer"), notes)]
    names = list(dict.fromkeys(name for table in tables for parts in table.columns.values() for name in parts))
    schema = _schema(names, path, config_file, config.get("skeleton") or [], notes)
    gatherer, listing = Gatherer(options.fields, schema), Listing()
    samples: list[Sample] = []
    seen: dict[Path, str] = {}
    empty = 0
    for table in tables:
        for line, row in table.rows:
            where = f"{table.file}, line {line}"
            try:
                image = table.image(row, listing)
                if image in seen:
                    raise Invalid(f"{image} is in {seen[image]} as well")
                seen[image] = where
                size = image_size(image)
                annotations = list(table.annotations(where, line, row, names, size))
            except (Invalid, UnreadableImage) as error:
                gatherer.problems.append(f"{where} is skipped: {str(error).removesuffix('.')}.")
                continue
            empty += not annotations
            samples.append(gatherer.sample(image, size, annotations))
    if empty:
        notes.append(f"images without a labelled body part, taken to show no animal: {empty}")
    every = [folder / name for folder in {image.parent for image in seen} for name in listing.names(folder)]
    if rest := {i for i in every if i.name.lower().endswith(SUFFIXES) and not i.name.startswith(".")} - set(seen):
        notes.append(f"images that no row lists, which are ignored: {len(rest)}, {min(rest)} for one")
    return gatherer.catalogue(path, "deeplabcut", (CLASS,), {"train": samples}, notes)


@dataclass
class _Table:
    """A list of labels."""

    file: Path
    columns: dict[str, dict[str, int]]
    """Column of x for each body part of each individual; that of y follows."""
    first: int
    """Number of columns of the image's path."""
    width: int
    """Values in a row."""
    rows: list[tuple[int, list[str]]]
    """The rows after the header, with their lines."""

    @staticmethod
    def load(file: Path) -> _Table:
        rows = csv_rows(file)
        header = {row[0].lower(): row for _, row in rows[: len(HEADER)] if row[0].lower() in HEADER}
        if not {"bodyparts", "coords"} <= header.keys() or len({*map(len, header.values())}) > 1:
            raise VertebraError(f"{file}: rows {', '.join(HEADER)} of one length are expected at its beginning.")
        coords, parts = header["coords"], header["bodyparts"]
        first = next((i for i, value in enumerate(coords) if i and value), len(coords))
        count = (len(coords) - first) // 2
        individuals = header.get("individuals", [CLASS] * len(coords))
        if not count or coords[first:] != ["x", "y"] * count:
            likelihood = "; with likelihood, these are predictions and no labels" if "likelihood" in coords else ""
            raise VertebraError(f"{file}: its row coords is not x, y of each body part in turn{likelihood}.")
        columns: dict[str, dict[str, int]] = {}
        for i in range(first, len(coords), 2):
            of_one = columns.setdefault(individuals[i], {})
            if (parts[i], individuals[i]) != (parts[i + 1], individuals[i + 1]) or parts[i] in of_one:
                raise VertebraError(
                    f"{file}, column {i + 1}: two columns, x and y, are expected for each body part of an animal; "
                    f"{shown(parts[i])} has others."
                )
            of_one[parts[i]] = i
        return _Table(file, columns, first, len(coords), rows[len(header) :])

    def image(self, row: Sequence[str], listing: Listing) -> Path:
        """The image of a row, by the last two parts of its path: the folder of its video and its name."""
        if len(row) != self.width:
            raise Invalid(f"it has {len(row)} values, the header {self.width}")
        parts = [part for part in re.split(r"[/\\]+", "/".join(row[: self.first])) if part]
        if not parts:
            raise Invalid("it has no image")
        # A folder may have been renamed with its list.
        image = self.file.parent.parent.joinpath(*parts[-2:])
        image = image if image in listing else self.file.parent / parts[-1]
        if image not in listing:
            raise Invalid(f"{escaped(str(image)[:300])} is not there")
        return image

    def annotations(
        self, where: str, line: int, row: Sequence[str], names: Sequence[str], size: tuple[int, int]
    ) -> Iterator[Annotation]:
        """The objects of a row, with the keypoints `names`, for an image of (height, width) `size`."""
        absent = [0.0, 0.0, 0.0]
        for individual, parts in self.columns.items():
            keypoints: list[float] = []
            for name in names:
                x, y = row[parts[name] : parts[name] + 2] if name in parts else ("", "")
                labelled = x or y
                keypoints += (
                    [number(x, f"x of {shown(name)}"), number(y, f"y of {shown(name)}"), 2] if labelled else absent
                )
            if any(keypoints[2::3]):
                box, area = box_of_keypoints(keypoints, size)
                which = f", {escaped(individual[:80])}" if len(self.columns) > 1 else ""
                yield Annotation(f"{where}{which}", 0, box, keypoints=keypoints, area=area, id=line)


def _lists(path: Path) -> list[Path]:
    """The lists of labels: `path` itself, or those in it if it is the folder of a video, or those of a project."""
    path = path.parent if path.name == CONFIG else path
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".csv" and _is_list(path) else []
    top = path / FOLDER if (path / FOLDER).is_dir() else path
    folders = [top, *(subfolders(top) if top.absolute().name == FOLDER else [])]
    files = [f for folder in folders for f in files_in(folder, ".csv") if f.name.startswith("CollectedData_")]
    return files if any(map(_is_list, files)) else []


def _is_list(file: Path) -> bool:
    first = [row[0].lower() for row in first_rows(file) if row]
    return first in (["scorer", "bodyparts"], ["scorer", "individuals"])


def _config(file: Path) -> tuple[Path, dict[str, Any]]:
    """The config.yaml of a list's project, and its content; nothing if it is not there."""
    top = file.absolute().parent.parent
    config = top.parent / CONFIG
    if top.name != FOLDER or not config.is_file():
        return config, {}
    content, _ = read_yaml(config)
    if not isinstance(content, dict):
        raise VertebraError(f"{config} is not DeepLabCut's: a mapping of options is expected.")
    return config, content


def _of_one_scorer(lists: Sequence[Path], scorer: Any, notes: list[str]) -> list[Path]:
    """The list of each folder; of several, that of the project's scorer."""
    chosen: list[Path] = []
    for folder in dict.fromkeys(file.parent for file in lists):
        files = [file for file in lists if file.parent == folder]
        usual = [file for file in files if file.stem == f"CollectedData_{scorer}"]
        if len(files) > 1 and not usual:
            names = ", ".join(file.name for file in files)
            raise VertebraError(f"{folder} has lists of {len(files)} scorers ({names}); give the path of one of them.")
        if len(files) > 1:
            notes.append(f"{folder}: lists of other scorers than {shown(scorer)} are ignored: {len(files) - 1}")
        chosen += usual or files
    return chosen


def _schema(names: Sequence[str], path: Path, config: Path, skeleton: Any, notes: list[str]) -> KeypointSchema:
    schema = named_keypoints(names, str(path))
    if not isinstance(skeleton, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in skeleton):
        raise VertebraError(f"{config}: its skeleton is {shown(skeleton)}, a list of pairs of body parts is expected.")
    index = {name: i for i, name in enumerate(names)}
    pairs = [[index[str(end)] for end in pair if str(end) in index] for pair in skeleton]
    joined = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
    if len(joined) < len(pairs):
        wrong = next(pair for pair, ends in zip(skeleton, pairs, strict=True) if len(ends) < 2)
        notes.append(
            f"{config.name}: pairs of its skeleton that are not two body parts of the lists are ignored: "
            f"{len(pairs) - len(joined)}, {shown(wrong)} for one"
        )
    return replace(schema, skeleton=joined) if joined else schema
