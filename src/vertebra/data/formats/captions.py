"""Lists of images with captions: CSV files with a header, and JSON lines.

The columns are the image (`file_name`, `image`, …), `caption` (or `text`, `comment`, …), and maybe `split`; in JSON
lines, `captions` may be a list. An image may stand in several lines. So are Hugging Face's ImageFolder with a column
`text`, and the lists of Flickr8k (`captions.txt`) and Flickr30k (`results.csv`, separated by `|`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vertebra.data.annotations import holds_images, split_of, subfolders
from vertebra.data.catalogue import SPLIT_NAMES, Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    beginning,
    by_name,
    csv_rows,
    first_rows,
    has_files,
    mapping,
    parsed_line,
    split_files,
    stated_split,
    text,
)
from vertebra.data.formats import ReadOptions, hugging_face
from vertebra.data.rows import CAPTIONS, captions_of
from vertebra.files import read_text

PRIORITY = 9
FIELDS = frozenset({"text"})
TITLE = "lists of captions"
IMAGE = ("file_name", "filename", "image", "image_name", "image_path", "path", "image_id", "id")
SUFFIXES = (".csv", ".txt", ".jsonl")
SEPARATORS = ",|"


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split; metadata of Hugging Face
    in a folder of classes does not count."""
    if any((path / name).is_file() for name in hugging_face.NAMES):
        classes = [folder for folder in subfolders(path) if folder.name.lower() not in SPLIT_NAMES]
        if sum(map(holds_images, classes)) > 1:
            return False
    return any(has_files(path, suffix, _is_captions) for suffix in SUFFIXES)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the lists, which lie beside them or in a folder beside them, with all of their captions.

    Raises:
        VertebraError: if a list cannot be read as CSV, or no image has a caption.
    """
    export = Export(path, "captions", options)
    entries: dict[tuple[str, str], ExportedImage] = {}
    for split, file in _files(path).items():
        find = export.tagged_images(file, split)
        for where, row in _rows(file, export):
            with export.skipping(where):
                name = text(next((row[key] for key in IMAGE if key in row), None), "image")
                captions = captions_of(row)
                folders = PurePosixPath(name).parts[:-1]
                part = stated_split(row.get("split"), next(filter(None, map(split_of, folders)), split))
                if (part, name) not in entries:
                    entries[part, name] = ExportedImage(where, find(name))
                    export.add(part, entries[part, name])
                entries[part, name].captions += captions
    return export.captioned()


def _files(path: Path) -> dict[str, Path]:
    """The list of each split."""
    return next(files for suffix in SUFFIXES if (files := split_files(path, suffix, _is_captions)))


def _is_captions(file: Path) -> bool:
    """Whether the header, or the first of JSON lines, names an image and a caption."""
    if file.suffix.lower() != ".jsonl":
        return _has_columns(_header(file))
    try:
        row = json.loads(beginning(file).split(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and _has_columns(list(row))


def _has_columns(names: Sequence[str]) -> bool:
    return any(name in IMAGE for name in names) and any(name in CAPTIONS for name in names)


def _separator(file: Path) -> str:
    """What stands between the columns: the one of the SEPARATORS that the header has most."""
    header = beginning(file).split(b"\n")[0].decode("utf-8", "replace")
    return max(SEPARATORS, key=header.count)


def _header(file: Path) -> list[str]:
    rows = first_rows(file, _separator(file))
    return [name.lower() for name in rows[0]] if rows else []


def _rows(file: Path, export: Export) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line stands, and its values by column."""
    if file.suffix.lower() != ".jsonl":
        header = _header(file)
        for line, values in csv_rows(file, _separator(file))[1:]:
            with export.skipping(f"{file}, line {line}") as where:
                yield where, by_name(header, values)
        return
    for line, content in enumerate(read_text(file).split("\n"), 1):
        if content.strip():
            with export.skipping(f"{file}, line {line}") as where:
                yield where, mapping(parsed_line(content), "line")
