"""YOLO's text files: boxes, or polygons, or keypoints, one file per picture and a data.yaml for all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from vertebra import pictures
from vertebra.data import segments
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.instances import (
    Annotation,
    Gatherer,
    Listing,
    named_points,
    split_folders,
    split_of,
    swapped_points,
    unnamed_points,
)
from vertebra.errors import VertebraError
from vertebra.files import read_text
from vertebra.structures import COCO_PERSON, Points

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
LISTS = ("classes.txt", "obj.names")
"""Lists of the classes, one in a line, which other tools write in place of a data.yaml."""
OBJECTS = re.compile(r"^obj_(\w+)_data$")
"""Darknet's folders of pictures, each split's."""


def recognise(path: Path) -> bool:
    """Whether a folder holds a data.yaml or a list of classes, or labels beside its images."""
    return bool(_config(path)) or _is_pair(path) or bool(split_folders(path, _is_pair))


def read(path: Path, want: str | None) -> Catalogue:
    """A data.yaml or its folder; labels lie in `labels` where the path of a picture says `images`, or else beside it.

    Without a data.yaml, a list of classes (`classes.txt` of Label Studio, `obj.names` of Darknet) does as well; the
    pictures lie in `images/`, maybe in folders of splits there, or in `obj_train_data/`.

    A line of five numbers is a box (class, centre x, centre y, width, height), one of seven or more a polygon (class,
    x1, y1, x2, y2, ...), in shares of the picture. With `kpt_shape`, x, y and maybe the visibility of each keypoint
    follow the box. A picture without a label file has no objects.

    Raises:
        VertebraError: if the data.yaml lacks what it needs, or a line is not numbers or of a class that is none.
    """
    config = path if path.is_file() else _config(path)
    if config is None:
        raise VertebraError(
            f"{path} has images and labels but no data.yaml, which names the classes (names: [...]), nor a classes.txt."
        )
    notes: list[str] = []
    told = _Told.listed(config) if config.name in LISTS else _Told.load(config, notes)
    gatherer = Gatherer(want, told.points)
    listing = Listing()
    splits: dict[str, list[Sample]] = {}
    for split, places in told.splits.items():
        files = [file for place in places for file in _pictures(config, split, place)]
        labels = {file: _label_file(file) for file in files}
        there = {file for file, label in labels.items() if str(label) in listing}
        if files and not there and split == "test" and len(told.splits) > 1:  # its labels may be kept secret
            notes.append(f"the {split} split is passed over: none of its {len(files)} pictures has a label file")
            continue
        if files and not there:
            raise VertebraError(
                f"{config}: no picture of the {split} split has a label file, {labels[files[0]]} for one is not there."
            )
        used = {label.name for label in labels.values()}
        for folder in {label.parent for label in labels.values()} - {file.parent for file in files}:
            if all(place.is_dir() for place in places) and (rest := sorted(_texts(listing, folder) - used)):
                one = folder / rest[0]
                notes.append(f"label files of the {split} split without a picture: {len(rest)}, {one} for one")
        if bare := len(files) - len(there):
            notes.append(f"pictures of the {split} split without a label file, taken to show no object: {bare}")
        splits[split] = []
        for file in files:
            try:
                size = pictures.measure(file)
            except pictures.BrokenPicture as error:
                gatherer.broken.append(f"{error.args[0].removesuffix('.')}; it is left out.")
                continue
            lines = _lines(labels[file], size, told, gatherer) if file in there else iter(())
            splits[split].append(gatherer.sample(file, size, lines))
    return gatherer.catalogue(path, "yolo", told.classes, splits, notes)


@dataclass
class _Told:
    """What a data.yaml tells."""

    classes: tuple[str, ...]
    splits: dict[str, list[Path]]
    points: Points | None
    dimensions: int
    """Numbers per keypoint: 2 without visibility, 3 with."""

    @staticmethod
    def listed(path: Path) -> _Told:
        """By a list of classes alone."""
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        classes = _classes(path, {"names": names})
        folders = [folder for folder in sorted(path.parent.iterdir()) if folder.is_dir()]
        places = {split_of(match[1]): folder for folder in folders if (match := OBJECTS.match(folder.name))}
        places |= split_folders(path.parent / "images", lambda _: True) if (path.parent / "images").is_dir() else {}
        splits = {split: [places[split]] for split in SPLITS if split in places}
        return _Told(classes, splits or {"train": [path.parent / "images"]}, None, 0)

    @staticmethod
    def load(path: Path, notes: list[str]) -> _Told:
        try:
            content = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            raise VertebraError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from error
        if not isinstance(content, dict) or "names" not in content:
            raise VertebraError(f"{path} is not YOLO's data.yaml: it has no 'names' (a list of the classes).")
        classes = _classes(path, content)
        splits = {
            split: places
            for split, words in SPLITS.items()
            for word in words
            if content.get(word) and (places := _places(path, content, split, content[word], notes))
        }
        if not splits:
            raise VertebraError(f"{path} has none of 'train', 'val' and 'test' (folders or lists of pictures).")
        points, dimensions = _points(path, content, notes)
        return _Told(classes, splits, points, dimensions)


def _is_pair(folder: Path) -> bool:
    return (folder / "labels").is_dir() and (folder / "images").is_dir()


def _config(folder: Path) -> Path | None:
    names = [*NAMES, *(LISTS if any((folder / p).is_dir() for p in ("images", "obj_train_data")) else ())]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _classes(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise VertebraError(f"{path}: its names are numbered {', '.join(map(str, names))}, not 0, 1, 2, ...")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise VertebraError(f"{path}: its names are {names!r}, a list of the classes is expected.")
    names = [str(name) for name in names]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise VertebraError(f"{path}: two classes are called {double!r}.")
    if content.get("nc", len(names)) != len(names):
        raise VertebraError(f"{path}: nc is {content['nc']}, but there are {len(names)} names.")
    return tuple(names)


def _places(path: Path, content: dict[str, Any], split: str, value: Any, notes: list[str]) -> list[Path]:
    """The folders and lists of a split; relative to `path` in the file, or else to the file itself.

    A file may have moved since: what comes last in a place that is not there is looked for beside the file, from
    where it names the split. A test split that is not there is passed over, since nothing here needs it.
    """
    found = []
    roots = [path.parent / str(content.get("path") or ""), path.parent]
    for place in value if isinstance(value, list) else [value]:
        # Some tools write ../train/images beside train/images.
        ends = [str(place), str(place).removeprefix("../")]
        tried = [root / end for end in ends for root in roots]
        there = next((p for p in tried if p.exists()), None)
        if there is None:
            parts = PurePosixPath(str(place).replace("\\", "/")).parts
            tails = [parts[i:] for i in range(1, len(parts)) if any(split_of(part) == split for part in parts[i:])]
            there = next((p for tail in tails if (p := path.parent.joinpath(*tail)).exists()), None)
            if there is not None:
                notes.append(f"{path.name} says {str(place)!r} for {split}, which is not there: {there} is taken")
            elif split == "test":
                notes.append(f"the test split is passed over: {tried[0]} is not there")
                continue
            else:
                raise VertebraError(f"{path}: its {split} is {str(place)!r}, but {tried[0]} is not there.")
        found.append(there)
    return found


def _points(path: Path, content: dict[str, Any], notes: list[str]) -> tuple[Points | None, int]:
    shape = content.get("kpt_shape")
    if shape is None:
        return None, 0
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(number) is int for number in shape)
        and shape[0] > 0
        and shape[1] in (2, 3)
    ):
        raise VertebraError(f"{path}: kpt_shape is {shape!r}, [number of keypoints, 2 or 3] is expected.")
    count = shape[0]
    flip = content.get("flip_idx")
    if flip is not None:
        flip = swapped_points(flip, count, str(path))
    names = content.get("kpt_names") or []
    if isinstance(names, dict):  # for each class
        of_classes = list(names.values())
        names = of_classes[0]
        if any(other != names for other in of_classes):
            notes.append("kpt_names differ from class to class: keypoints go by their numbers")
            names = []
    if not isinstance(names, list):
        raise VertebraError(f"{path}: kpt_names is {names!r}, a list of names for each class is expected.")
    if names and len(names) != count:
        raise VertebraError(f"{path}: kpt_shape says {count} keypoints, but kpt_names names {len(names)}.")
    if names:
        points = named_points([str(name) for name in names], COCO_PERSON, str(path))
    else:
        points = unnamed_points(count, flip, notes)
    return points if flip is None else replace(points, flip=flip), shape[1]


def _pictures(config: Path, split: str, place: Path) -> list[Path]:
    if place.is_dir():
        return pictures.find(place)
    if place.suffix.lower() != ".txt":
        raise VertebraError(f"{config}: its {split} is {place}, which is neither a folder nor a .txt list of pictures.")
    found = []
    for line in read_text(place).splitlines():
        if line.strip():
            beside = place.parent / line.strip()
            found.append(beside if beside.exists() else config.parent / line.strip())
    return found


def _texts(listing: Listing, folder: Path) -> set[str]:
    return {name for name in listing.names(folder) if name.endswith(".txt") and name not in LISTS}


def _label_file(picture: Path) -> Path:
    """The last folder called `images` on the way to a picture is `labels` for its text; beside it without one."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path, size: tuple[int, int], told: _Told, gatherer: Gatherer) -> Iterator[Annotation]:
    height, width = size
    for line, words in enumerate((row.split() for row in read_text(file).splitlines()), 1):
        if not words:
            continue
        where = f"{file}, line {line}"
        try:
            first, *values = (float(word) for word in words)
        except ValueError as error:
            raise VertebraError(f"{where}: not all of it are numbers ({error}).") from error
        if first not in range(len(told.classes)):
            raise VertebraError(
                f"{where}: class {words[0]} is none of the {len(told.classes)} that are named (from 0)."
            )
        label = int(first)
        numbers = 4 + (len(told.points.names) * told.dimensions if told.points else 0)
        if len(values) == numbers:
            x, y, w, h = values[:4]
            box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            points = _keypoints(values[4:], told.dimensions, size) if told.points else None
            yield Annotation(where, label, box, points=points, number=line)
        elif not told.points and len(values) >= 6 and len(values) % 2 == 0:
            # Rounded to what was meant: the last digits decide on which side of a pixel's centre a border runs.
            polygon = [
                round(value * side, 3)
                for pair in zip(values[::2], values[1::2], strict=True)
                for value, side in zip(pair, (width, height), strict=True)
            ]
            finite = all(map(math.isfinite, polygon))
            xs, ys = (polygon[::2], polygon[1::2]) if finite else ([math.nan], [math.nan])
            box = [min(xs), min(ys), max(xs), max(ys)]
            area = segments.area(polygon) if finite else None
            yield Annotation(where, label, box, [polygon], area=area, number=line)
        else:
            expected = f"{numbers + 1} are a box" + (" with keypoints" if told.points else ", 7, 9, 11, ... a polygon")
            gatherer.broken.append(f"{where} is left out: it has {len(words)} numbers, {expected}.")


def _keypoints(values: list[float], dimensions: int, size: tuple[int, int]) -> list[float]:
    """x, y, visibility in pixels; without visibility, a point at 0, 0 is absent and any other seen."""
    points: list[float] = []
    for i in range(0, len(values), dimensions):
        x, y = values[i : i + 2]
        visible = values[i + 2] if dimensions == 3 else 2.0 * bool(x or y)
        points += [x * size[1], y * size[0], visible]
    return points


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `data.yaml`, `images/SPLIT/` and `labels/SPLIT/`: keypoints if there are any, else masks, else boxes.

    Returns:
        What YOLO's files cannot hold and the data has.
    """
    points = catalogue.points
    told: dict[str, Any] = {split: f"images/{split}" for split in catalogue.splits}
    told["names"] = dict(enumerate(catalogue.classes))
    if points:
        told["kpt_shape"] = [len(points.names), 3]
        told["flip_idx"] = list(points.flip or range(len(points.names)))
        told["kpt_names"] = {i: list(points.names) for i in range(len(catalogue.classes))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    crowds = maskless = 0
    for split, samples in catalogue.splits.items():
        copies = Copies(folder / "images" / split, stems=True)
        for sample in samples:
            picture = copies.add(sample.picture)
            lines = []
            labels, crowd = sample.target.labels, sample.target.crowd
            assert labels is not None
            for i in range(len(labels)):
                if crowd is not None and crowd[i]:
                    crowds += 1
                    continue
                values = _line(sample, i, catalogue)
                maskless += "masks" in catalogue.has and not points and len(values) == 4
                lines.append(" ".join([str(int(labels[i])), *(f"{value:.9g}" for value in values)]))
            path = folder / "labels" / split / f"{picture.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    lost = [f"{crowds} crowd regions"] if crowds else []
    if "masks" in catalogue.has:
        lost.append("masks beside keypoints" if points else "boxes other than around the masks")
    lost += [word for word in ("skeleton", "sigmas") if points and getattr(points, word)]
    lost += ["areas", "ids"] if catalogue.kind == "coco" else []
    return lost + ([f"masks of {maskless} objects, which have none"] if maskless else [])


def _line(sample: Sample, i: int, catalogue: Catalogue) -> list[float]:
    """What follows the class in one line, in shares of the picture."""
    target = sample.target
    assert target.boxes is not None
    assert target.size is not None
    height, width = target.size
    if not catalogue.points and sample.segments:
        segment = sample.segments[i]
        if isinstance(segment, list) and len(segment) == 1:
            polygon = segment[0]
        else:
            polygon = segments.outline(segments.decode(segment, target.size, target.path))
        if polygon:
            return [value / side for value, side in zip(polygon, (width, height) * (len(polygon) // 2), strict=True)]
    x1, y1, x2, y2 = target.boxes[i].tolist()
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    if catalogue.points and target.keypoints is not None:
        values += [v for x, y, visible in target.keypoints[i].tolist() for v in (x / width, y / height, visible)]
    return values
