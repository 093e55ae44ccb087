"""YOLO's text files: boxes, or polygons, or keypoints, one file per image and a data.yaml for all."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from vertebra.data import segments
from vertebra.data.annotations import (
    Annotation,
    Gatherer,
    Listing,
    check_class_names,
    check_flip_indices,
    check_keypoint_count,
    named_keypoints,
    split_folders,
    split_of,
    unnamed_keypoints,
)
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.exports import CANDIDATES, beginning, files_in
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import are_numbers, read_text, read_yaml
from vertebra.images import SUFFIXES, UnreadableImage, find_images, image_size
from vertebra.structures import KeypointSchema

PRIORITY = 40
FIELDS = frozenset({"boxes", "labels", "masks", "keypoints", "crowd", "areas"})
NEEDS = frozenset({"boxes"})
TITLE = "YOLO"

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
KEYS = re.compile(rb"^[\"']?names[\"']?\s*:", re.MULTILINE)
SPLIT_KEYS = re.compile(rb"^[\"']?(train|val|valid|test)[\"']?\s*:", re.MULTILINE)
LISTS = ("classes.txt", "obj.names")
"""Lists of the classes, one in a line, which other tools write in place of a data.yaml."""
DARKNET = re.compile(r"^obj_(\w+)_data$")
"""Darknet's folder of the images of a split."""


def recognise(path: Path) -> bool:
    """Whether it is a YAML file, or a folder with one of data, a list of classes, or labels beside its images."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    if not path.is_dir():
        return False
    if _config_file(path) or _is_pair(path):
        return True
    # A split with a file of its own is a whole data set.
    return bool(split_folders(path, lambda folder: _is_pair(folder) and not _config_file(folder)))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """A data.yaml, of any name, or its folder; labels lie in `labels` where the path of an image has `images`, or else
    beside it.

    Without a data.yaml, a list of classes (`classes.txt` of Label Studio, `obj.names` of Darknet) does as well; the
    images lie in `images/`, maybe in folders of splits there, or in `obj_train_data/`.

    A line of five numbers is a box (class, centre x, centre y, width, height), one of seven or more a polygon (class,
    x1, y1, x2, y2, ...), in shares of the image. With `kpt_shape`, x, y and maybe the visibility of each keypoint
    follow the box. An image without a label file has no objects.

    Raises:
        VertebraError: if the data.yaml lacks what it needs, or a line is not numbers or of an unknown class.
    """
    file = path if path.is_file() else _config_file(path)
    if file and file.parent == path and file.name not in (*NAMES, *LISTS) and len(others := _other_configs(path)) > 1:
        names = ", ".join(other.name for other in others)
        raise VertebraError(f"{path} has {len(others)} YAML files of data ({names}); give the path of one of them.")
    if file is None:
        raise VertebraError(
            f"{path} has images and labels but no data.yaml, which names the classes (names: [...]), nor a classes.txt."
        )
    notes: list[str] = []
    config = _Config.from_list(file) if file.name in LISTS else _Config.load(file, notes)
    gatherer = Gatherer(options.fields, config.keypoints)
    listing = Listing()
    splits: dict[str, list[Sample]] = {}
    for split, places in config.splits.items():
        images = [image for place in places for image in _images(file, split, place)]
        labels = {image: _label_file(image) for image in images}
        labelled = {image for image, label in labels.items() if str(label) in listing}
        if images and not labelled and split == "test" and len(config.splits) > 1:  # its labels may be kept secret
            notes.append(f"the {split} split is ignored: none of its {len(images)} images has a label file")
            continue
        if images and not labelled:
            raise VertebraError(
                f"{file}: no image of the {split} split has a label file, {labels[images[0]]} for one is not there."
            )
        used = {label.name for label in labels.values()}
        for folder in {label.parent for label in labels.values()} - {image.parent for image in images}:
            if all(place.is_dir() for place in places) and (rest := sorted(_texts(listing, folder) - used)):
                first = folder / rest[0]
                notes.append(f"label files of the {split} split without an image: {len(rest)}, {first} for one")
        if count := len(images) - len(labelled):
            notes.append(f"images of the {split} split without a label file, taken to show no object: {count}")
        splits[split] = []
        for image in images:
            try:
                size = image_size(image)
            except UnreadableImage as error:
                gatherer.problems.append(f"{error.args[0].removesuffix('.')}; it is skipped.")
                continue
            lines = _lines(labels[image], size, config, gatherer) if image in labelled else iter(())
            splits[split].append(gatherer.sample(image, size, lines))
    return gatherer.catalogue(path, "yolo", config.classes, splits, notes)


@dataclass
class _Config:
    """The content of a data.yaml."""

    path: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Path]]
    keypoints: KeypointSchema | None
    dimensions: int
    """Numbers per keypoint: 2 without visibility, 3 with."""

    @staticmethod
    def from_list(path: Path) -> _Config:
        """From a list of classes alone."""
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        classes = _classes(path, {"names": names})
        folders = [folder for folder in sorted(path.parent.iterdir()) if folder.is_dir()]
        places = {split_of(match[1]): folder for folder in folders if (match := DARKNET.match(folder.name))}
        places |= split_folders(path.parent / "images", lambda _: True) if (path.parent / "images").is_dir() else {}
        splits = {split: [places[split]] for split in SPLITS if split in places}
        return _Config(path, classes, splits or {"train": [path.parent / "images"]}, None, 0)

    @staticmethod
    def load(path: Path, notes: list[str]) -> _Config:
        content, _ = read_yaml(path)
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
            raise VertebraError(f"{path} has none of 'train', 'val' and 'test' (folders or lists of images).")
        keypoints, dimensions = _keypoint_schema(path, content, notes)
        return _Config(path, classes, splits, keypoints, dimensions)


def _is_pair(folder: Path) -> bool:
    """Whether there are images and labels, which are not images themselves."""
    labels = folder / "labels"
    if not (labels.is_dir() and (folder / "images").is_dir()):
        return False
    first = next((path for path in labels.rglob("*") if path.suffix), None)
    return first is None or first.suffix.lower() not in SUFFIXES


def _config_file(folder: Path) -> Path | None:
    lists = LISTS if any((folder / p).is_dir() for p in ("images", "obj_train_data")) else ()
    known, listed = ([folder / name for name in names if (folder / name).is_file()] for names in (NAMES, lists))
    return next(iter(known or _other_configs(folder) or listed), None)


def _other_configs(folder: Path) -> list[Path]:
    """YAML files of other names that have `names` and a split."""
    files = [file for suffix in (".yaml", ".yml") for file in files_in(folder, suffix)]
    return [
        file for file in files[:CANDIDATES] if KEYS.search(content := beginning(file)) and SPLIT_KEYS.search(content)
    ]


def _classes(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        if any(type(number) is not int for number in names) or sorted(names) != list(range(len(names))):
            raise VertebraError(f"{path}: its names are numbered {shown(list(names))}, not 0, 1, 2, ...")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise VertebraError(f"{path}: its names are {shown(names)}, a list of the classes is expected.")
    classes = check_class_names([str(name) if type(name) is int else name for name in names], path)
    if content.get("nc") is not None and (type(content["nc"]) is not int or content["nc"] != len(names)):
        raise VertebraError(f"{path}: nc is {shown(content['nc'])}, but there are {len(names)} names.")
    return classes


def _places(path: Path, content: dict[str, Any], split: str, value: Any, notes: list[str]) -> list[Path]:
    """The folders and lists of a split; relative to `path` in the file, or else to the file itself.

    A file may have been moved: the end of a path that does not exist is searched beside the file, from the part that
    names the split. A test split that is not there is ignored, since training does not need it.
    """
    places: dict[Path, None] = {}
    roots = [path.parent / str(content.get("path") or ""), path.parent]
    for place in value if isinstance(value, list) else [value]:
        # Some tools write ../train/images beside train/images.
        ends = [str(place), str(place).removeprefix("../")]
        candidates = [root / end for end in ends for root in roots]
        existing = next((p for p in candidates if os.path.exists(p)), None)
        if existing is None:
            parts = PurePosixPath(str(place).replace("\\", "/")).parts
            tails = [parts[i:] for i in range(1, len(parts)) if any(split_of(part) == split for part in parts[i:])]
            existing = next((p for tail in tails if os.path.exists(p := path.parent.joinpath(*tail))), None)
            if existing is not None:
                notes.append(f"{path.name} has {shown(str(place))} for {split}, which is not there: {existing} is used")
            elif split == "test":
                notes.append(f"the test split is ignored: {escaped(str(candidates[0])[:300])} is not there")
                continue
            else:
                missing = escaped(str(candidates[0])[:300])
                raise VertebraError(f"{path}: its {split} is {shown(str(place))}, but {missing} is not there.")
        places[existing] = None
    return list(places)


def _keypoint_schema(path: Path, content: dict[str, Any], notes: list[str]) -> tuple[KeypointSchema | None, int]:
    """The keypoints of a data.yaml, and the numbers per keypoint."""
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
        raise VertebraError(f"{path}: kpt_shape is {shown(shape)}, [number of keypoints, 2 or 3] is expected.")
    count, dimensions = shape
    check_keypoint_count(count, str(path))
    flip_indices = content.get("flip_idx")
    if flip_indices is not None:
        flip_indices = check_flip_indices(flip_indices, count, str(path))
    names = content.get("kpt_names") or []
    if isinstance(names, dict):  # for each class
        of_classes = list(names.values())
        names = of_classes[0] if of_classes else []
        if any(other != names for other in of_classes):
            notes.append("kpt_names differ from class to class: keypoints are called by their numbers")
            names = []
    if not isinstance(names, list):
        raise VertebraError(f"{path}: kpt_names is {shown(names)}, a list of names for each class is expected.")
    if names and len(names) != count:
        raise VertebraError(f"{path}: kpt_shape has {count} keypoints, but kpt_names names {len(names)}.")
    if names:
        schema = named_keypoints([str(name) for name in names], str(path))
    else:
        schema = unnamed_keypoints(count, flip_indices, notes)
    return schema if flip_indices is None else replace(schema, flip_indices=flip_indices), dimensions


def _images(file: Path, split: str, place: Path) -> list[Path]:
    """The images in a folder or a list; lines of a list are relative to it, or else to the data.yaml."""
    if place.is_dir():
        return find_images(place)
    if place.suffix.lower() != ".txt":
        raise VertebraError(f"{file}: its {split} is {place}, which is neither a folder nor a .txt list of images.")
    images = []
    for line in read_text(place).splitlines():
        if line.strip():
            beside = place.parent / line.strip()
            images.append(beside if os.path.exists(beside) else file.parent / line.strip())
    return images


def _texts(listing: Listing, folder: Path) -> set[str]:
    return {name for name in listing.names(folder) if name.endswith(".txt") and name not in LISTS}


def _label_file(image: Path) -> Path:
    """The .txt of an image: the last folder in its path that is called `images` becomes `labels`; beside the image
    without one."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path, size: tuple[int, int], config: _Config, gatherer: Gatherer) -> Iterator[Annotation]:
    height, width = size
    for line, words in enumerate((row.split() for row in read_text(file).splitlines()), 1):
        if not words:
            continue
        where = f"{file}, line {line}"
        try:
            first, *values = (float(word.replace("_", "no number")) for word in words)
        except ValueError as error:
            raise VertebraError(f"{where}: not all of it are numbers ({escaped(str(error)[:80])}).") from error
        if first not in range(len(config.classes)):
            raise VertebraError(
                f"{where}: class {escaped(words[0][:40])} is not one of the {len(config.classes)} named (from 0)."
            )
        label = int(first)
        if not config.keypoints and _has_keypoints(values):
            gatherer.problems.append(
                f"{where} is skipped: it is a box with keypoints; {config.path} needs their number, such as "
                f"kpt_shape: [{(len(values) - 4) // 3}, 3]."
            )
            continue
        numbers = 4 + (len(config.keypoints.names) * config.dimensions if config.keypoints else 0)
        if len(values) == numbers:
            x, y, w, h = values[:4]
            box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            keypoints = _keypoints(values[4:], config.dimensions, size) if config.keypoints else None
            yield Annotation(where, label, box, keypoints=keypoints, id=line)
        elif not config.keypoints and len(values) >= 6 and len(values) % 2 == 0:
            # Rounded to the value before division: the last digits decide on which side of a pixel centre a border is.
            polygon = [
                round(value * side, 3)
                for pair in zip(values[::2], values[1::2], strict=True)
                for value, side in zip(pair, (width, height), strict=True)
            ]
            xs, ys = polygon[::2], polygon[1::2]
            box = [min(xs), min(ys), max(xs), max(ys)] if are_numbers(polygon) else [math.nan] * 4
            area = segments.polygon_area(polygon) if are_numbers(box) else None
            yield Annotation(where, label, box, [polygon], area=area, id=line)
        else:
            expected = f"{numbers + 1} are a box" + (
                " with keypoints" if config.keypoints else ", 7, 9, 11, ... a polygon"
            )
            gatherer.problems.append(f"{where} is skipped: it has {len(words)} numbers, {expected}.")


def _has_keypoints(values: list[float]) -> bool:
    """Whether numbers that may be a polygon are a box, and x, y and visibility of keypoints in it."""
    if len(values) < 7 or (len(values) - 4) % 3 or not {*values[6::3]} <= {0.0, 1.0, 2.0}:
        return False
    x, y, w, h = values[:4]
    if not (0 < w <= 1 and 0 < h <= 1):
        return False
    labelled = [values[i : i + 2] for i in range(4, len(values), 3) if values[i + 2]]
    return all(abs(kx - x) <= w and abs(ky - y) <= h for kx, ky in labelled)


def _keypoints(values: list[float], dimensions: int, size: tuple[int, int]) -> list[float]:
    """x, y, visibility in pixels; without visibility, a keypoint at 0, 0 is not labelled and any other visible."""
    keypoints: list[float] = []
    for i in range(0, len(values), dimensions):
        x, y = values[i : i + 2]
        visibility = values[i + 2] if dimensions == 3 else 2.0 * bool(x or y)
        keypoints += [x * size[1], y * size[0], visibility]
    return keypoints


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `data.yaml`, `images/SPLIT/` and `labels/SPLIT/`: keypoints if there are any, else masks, else boxes.

    Returns:
        What YOLO's files cannot hold and the data has.
    """
    schema = catalogue.keypoints
    content: dict[str, Any] = {split: f"images/{split}" for split in catalogue.splits}
    content["names"] = dict(enumerate(catalogue.classes))
    if schema:
        content["kpt_shape"] = [len(schema.names), 3]
        content["flip_idx"] = list(schema.flip_indices or range(len(schema.names)))
        content["kpt_names"] = {i: list(schema.names) for i in range(len(catalogue.classes))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    crowds = maskless = 0
    for split, samples in catalogue.splits.items():
        copies = Copies(folder / "images" / split, stems=True)
        for sample in samples:
            image = copies.add(sample.image)
            lines = []
            labels, crowd = sample.target.labels, sample.target.crowd
            assert labels is not None
            for i in range(len(labels)):
                if crowd is not None and crowd[i]:
                    crowds += 1
                    continue
                values = _line(sample, i, catalogue)
                maskless += "masks" in catalogue.has and not schema and len(values) == 4
                lines.append(" ".join([str(int(labels[i])), *(f"{value:.9g}" for value in values)]))
            path = folder / "labels" / split / f"{image.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    lost = [f"{crowds} crowd regions"] if crowds else []
    if "masks" in catalogue.has:
        lost.append("masks beside keypoints" if schema else "boxes other than around the masks")
    lost += [word for word in ("skeleton", "sigmas") if schema and getattr(schema, word)]
    lost += ["areas", "ids"] if catalogue.format == "coco" else []
    return lost + ([f"masks of {maskless} objects, which have none"] if maskless else [])


def _line(sample: Sample, i: int, catalogue: Catalogue) -> list[float]:
    """The numbers after the class in one line, in shares of the image."""
    target = sample.target
    assert target.boxes is not None
    assert target.size is not None
    height, width = target.size
    if not catalogue.keypoints and sample.segments:
        segment = sample.segments[i]
        if isinstance(segment, list) and len(segment) == 1:
            polygon = segment[0]
        else:
            polygon = segments.outline(segments.decode(segment, target.size, target.path))
        if polygon:
            return [value / side for value, side in zip(polygon, (width, height) * (len(polygon) // 2), strict=True)]
    x1, y1, x2, y2 = target.boxes[i].tolist()
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    if catalogue.keypoints and target.keypoints is not None:
        values += [
            value for x, y, visibility in target.keypoints[i].tolist() for value in (x / width, y / height, visibility)
        ]
    return values
