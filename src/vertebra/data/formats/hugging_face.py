"""Hugging Face's ImageFolder with metadata: `metadata.jsonl` or `metadata.csv` beside the images or their folders.

A row has `file_name` and `label`, a list of `tags` or `labels`, or `objects` with `bbox` (x, y, width, height in
pixels, as COCO has them) and `categories`; `segmentation`, `keypoints`, `area` and `iscrowd` are as in COCO.

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
    beginning,
    by_name,
    csv_rows,
    mapping,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.data.rows import fill
from vertebra.files import parse_json, read_text

PRIORITY = 8
FIELDS = frozenset({"label", "tags", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "Hugging Face metadata"
NAMES = ("metadata.jsonl", "metadata.csv")
IMAGE = ("file_name", "image_file_name")


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
                fill(entry, row, export)
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
        word in content for word in (b"label", b"tags", b"objects", b"bbox")
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
