"""CSV lists of images with several tags each: the columns `path`, `tags` and maybe `split`.

Tags are separated by `;`, `|` or `,`, the first of these that occurs in the column; if none does, by white space, as in
Kaggle's "Planet: Understanding the Amazon from Space". Images without a suffix are found all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    by_name,
    csv_rows,
    first_rows,
    has_files,
    split_files,
    stated_split,
    tag_names,
    text,
)
from vertebra.data.formats import ReadOptions

PRIORITY = 7
FIELDS = frozenset({"tags"})
TITLE = "CSV lists of tags"
COLUMNS = {
    "image": ("path", "file_name", "filename", "image", "image_name", "image_path", "image_id", "id"),
    "tags": ("tags", "labels"),
    "split": ("split", "subset"),
}
"""What a column holds, and what it is called, in lower case."""
SEPARATORS = ";|,"


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".csv", _is_tags)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the lists, which lie beside them or in a folder beside them. One without tags has none.

    Raises:
        VertebraError: if a list cannot be read as CSV, or no image has a tag.
    """
    export = Export(path, "csv_tags", options)
    for split, file in split_files(path, ".csv", _is_tags).items():
        (_, header), *rows = csv_rows(file)
        names = _header(header)
        place = names.index("tags")
        separator = _separator(row[place] for _, row in rows if place < len(row))
        if separator is None and any(" " in row[place] for _, row in rows if place < len(row)):
            export.notes.append(f"{file.name}: tags are separated by white space, as none of ; | , occurs")
        find = export.tagged_images(file, split)
        for line, row in rows:
            with export.skipping(f"{file}, line {line}") as where:
                values = by_name(names, row)
                entry = ExportedImage(where, find(text(values["image"], "image")))
                parts = [part.strip() for part in values["tags"].split(separator)]
                entry.tags = tag_names([part for part in parts if part])
                export.add(stated_split(values.get("split"), split), entry)
    return export.catalogue()


def _is_tags(file: Path) -> bool:
    rows = first_rows(file)
    names = _header(rows[0]) if rows else []
    return names.count("image") == 1 and names.count("tags") == 1


def _header(row: list[str]) -> list[str]:
    """What each column holds, or its number if that is not read."""
    holds = {alias: what for what, aliases in COLUMNS.items() for alias in aliases}
    return [holds.get(value.lower(), f"{i}") for i, value in enumerate(row)]


def _separator(values: Iterable[str]) -> str | None:
    """Of the tags in a column; None for white space."""
    used = set().union(*(set(value) for value in values)) if values else set()
    return next((character for character in SEPARATORS if character in used), None)
