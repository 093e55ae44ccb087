"""JSON lines of images with several tags each: `{"path": "1.jpg", "tags": ["beach", "dog"]}` in every line.

The image is `path`, `image`, `file_name` or `filename`; the tags are `tags` or `labels`, a list of text or numbers;
`split` may say which split it is of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    beginning,
    has_files,
    mapping,
    parsed_line,
    split_files,
    stated_split,
    tag_names,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.files import read_text

PRIORITY = 7
FIELDS = frozenset({"tags"})
TITLE = "JSON lines of tags"
IMAGE = ("path", "image", "file_name", "filename")
TAGS = ("tags", "labels")
SUFFIX = ".jsonl"


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, SUFFIX, _is_tags)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the lines, which lie beside the file or in a folder beside it. One with an empty list has no tag.

    Raises:
        VertebraError: if no image has a tag.
    """
    export = Export(path, "json_lines_tags", options)
    for split, file in split_files(path, SUFFIX, _is_tags).items():
        find = export.tagged_images(file, split)
        for line, content in enumerate(read_text(file).split("\n"), 1):
            if not content.strip():
                continue
            with export.skipping(f"{file}, line {line}") as where:
                row = mapping(parsed_line(content), "line")
                entry = ExportedImage(where, find(text(_first(row, IMAGE), "path")))
                if not any(key in row for key in TAGS):
                    raise Invalid("it has no tags; an image without any has an empty list")
                entry.tags = tag_names(_first(row, TAGS))
                export.add(stated_split(row.get("split"), split), entry)
    return export.catalogue()


def _is_tags(file: Path) -> bool:
    """Whether the first line is of an image with a list of text or numbers as its tags."""
    try:
        row = json.loads(beginning(file).split(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    if not isinstance(row, dict) or not isinstance(_first(row, IMAGE), str):
        return False
    tags = _first(row, TAGS)
    return isinstance(tags, list) and all(isinstance(tag, str | int) for tag in tags)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of the keys that is there; None without."""
    return next((row[key] for key in keys if key in row), None)
