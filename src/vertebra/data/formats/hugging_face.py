"""Hugging Face's ImageFolder with metadata: `metadata.jsonl` or `metadata.csv` beside the images or their folders.

A row has `file_name` and `label`, or `objects` with `bbox` (x, y, width, height in pixels, as COCO has them) and
`categories`; `segmentation`, `keypoints`, `area` and `iscrowd` are as in COCO.

Source: Hugging Face's documentation of Datasets, "Create an image dataset".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vertebra.data.annotations import split_folders, split_of
from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    Shape,
    beginning,
    by_name,
    csv_rows,
    mapping,
    number,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import shown
from vertebra.files import parse_json, read_text

PRIORITY = 8
FIELDS = frozenset({"label", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "Hugging Face metadata"
NAMES = ("metadata.jsonl", "metadata.csv")
IMAGE = ("file_name", "image_file_name")
CATEGORIES = ("category", "categories", "label", "labels", "class", "classes")
"""Names of the list of the objects' classes."""


def recognise(path: Path) -> bool:
    """Whether it is such a file with labels or objects, or a folder with one, or with one in each folder of a split."""
    return bool(_files(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images in the rows of the files; a folder in `file_name` that is named after a split is that split.

    Classes that are numbers are called by them.

    Raises:
        VertebraError: if a file is damaged.
    """
    export = Export(path, "hugging_face", options)
    for split, file in _files(path).items():
        for where, row in _rows(file, export):
            with export.skipping(where):
                row = mapping(row, "row")
                name = text(next((row[key] for key in IMAGE if key in row), None), "file_name")
                part = next(filter(None, map(split_of, PurePosixPath(name).parts[:-1])), split)
                entry = ExportedImage(where, export.images(file, part)(name))
                if row.get("label") not in (None, ""):
                    entry.label = _name(row["label"], "label")
                for i, item in enumerate(_objects(where, row), 1):
                    with export.skipping(f"{where}, object {i}") as inside:
                        entry.shapes.append(_shape(inside, item, i))
                export.add(part, entry)
    return export.catalogue()


def _files(path: Path) -> dict[str, Path]:
    """The metadata of each split; those of a folder for all splits are called train."""
    if path.is_file():
        return {"train": path} if path.name in NAMES and _is_metadata(path) else {}
    if not path.is_dir():
        return {}
    for folder in (path, path / "data"):
        if file := _in_folder(folder):
            return {"train": file}
        if folder.is_dir() and (folders := split_folders(folder, lambda below: _in_folder(below) is not None)):
            return {split: file for split, below in folders.items() if (file := _in_folder(below))}
    return {}


def _in_folder(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if _is_metadata(folder / name)), None)


def _is_metadata(file: Path) -> bool:
    content = beginning(file)
    return any(key.encode() in content for key in IMAGE) and any(
        word in content for word in (b"label", b"objects", b"bbox")
    )


def _rows(file: Path, export: Export) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row."""
    if file.suffix == ".csv":
        (_, header), *rows = csv_rows(file)
        for line, values in rows:
            with export.skipping(f"{file}, line {line}") as where:
                yield where, by_name(header, values)
        return
    for line, content in enumerate(read_text(file).split("\n"), 1):
        if content.strip():
            yield f"{file}, line {line}", parse_json(content, f"{file}, row {line}")


def _name(value: Any, what: str) -> str:
    """The name of a class; a number as text."""
    return str(value) if type(value) is int else text(value, what)


def _objects(where: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of an image, one mapping each; stated so, or as a mapping of lists."""
    objects = row.get("objects", row if "bbox" in row else {})
    if isinstance(objects, str):  # in CSV
        objects = parse_json(objects or "[]", f"{where}, objects")
    if isinstance(objects, list):
        return [mapping(item, "object") for item in objects]
    columns = {key: value for key, value in mapping(objects or {}, "objects").items() if isinstance(value, list)}
    boxes = columns.get("bbox", [])
    uneven = [key for key, values in columns.items() if len(values) != len(boxes)]
    if uneven and (boxes or set(uneven) & set(CATEGORIES)):
        raise Invalid(f"its {shown(uneven[0])} has {len(columns[uneven[0]])} values for {len(boxes)} boxes")
    return [{key: values[i] for key, values in columns.items()} for i in range(len(boxes))]


def _shape(where: str, item: dict[str, Any], i: int) -> Shape:
    name = _name(next((item[key] for key in CATEGORIES if key in item), None), "category")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise Invalid(f"its bbox is {shown(box)}, [x, y, width, height] is expected")
    x, y, width, height = (number(value, "bbox") for value in box)
    shape = Shape(where, name, [x, y, x + width, y + height], item.get("segmentation"), id=i)
    shape.crowd, shape.area = item.get("iscrowd", False), item.get("area")
    keypoints = item.get("keypoints")
    if isinstance(keypoints, list):
        flat = [value for part in keypoints for value in (part if isinstance(part, list) else [part])]
        if len(flat) % 3:
            raise Invalid("its keypoints are not three numbers each")
        for j in range(0, len(flat), 3):
            x, y, visibility = (number(value, "keypoints") for value in flat[j : j + 3])
            shape.keypoints[str(j // 3)] = (x, y, visibility)
    return shape
