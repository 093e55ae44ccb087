"""CSV lists of images with a column of 0 and 1 for each class, as Roboflow's `_classes.csv` has them.

The first column is the image, `filename`; the others are the classes. An image has one class, or several or none where
its tags are needed. -1 stands for 0, as in CelebA's attributes.

Source: exports of Roboflow, "Multi-Class Classification" and "Multi-Label Classification".
"""

from __future__ import annotations

from pathlib import Path

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    by_name,
    csv_rows,
    first_rows,
    has_files,
    split_files,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import shown

PRIORITY = 7
FIELDS = frozenset({"label", "tags"})
TITLE = "CSV lists of 0 and 1"
IMAGE = ("filename", "file_name", "path", "image", "image_name", "id", "image_id")


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".csv", _is_one_hot)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the lists, which lie beside them or in a folder beside them.

    Where the class of an image is needed, one with no class or several is skipped. Where everything is, they have tags
    if most of them have no class or several.

    Raises:
        VertebraError: if a list cannot be read as CSV.
    """
    export = Export(path, "csv_classes", options)
    tables = {split: (file, csv_rows(file)) for split, file in split_files(path, ".csv", _is_one_hot).items()}
    numbers = [row[1:].count("1") for _, table in tables.values() for _, row in table[1:]]
    with_tags = "tags" in options.fields if options.fields else 2 * numbers.count(1) < len(numbers)
    for split, (file, table) in tables.items():
        header, find = table[0][1], export.tagged_images(file, split)
        for line, row in table[1:]:
            with export.skipping(f"{file}, line {line}") as where:
                values = by_name(header, row)
                entry = ExportedImage(where, find(text(values.pop(header[0]), header[0])))
                chosen = [name for name, value in values.items() if _is_set(value)]
                if with_tags:
                    entry.tags = [text(name, "class") for name in chosen]
                elif len(chosen) != 1:
                    raise Invalid(f"it has {len(chosen)} classes ({shown(', '.join(chosen))}), one is expected")
                else:
                    entry.label = text(chosen[0], "class")
                export.add(split, entry)
    return export.catalogue()


def _is_one_hot(file: Path) -> bool:
    rows = first_rows(file)
    if len(rows) < 2 or len(rows[0]) < 3 or rows[0][0].lower() not in IMAGE or len(rows[0]) != len(rows[1]):
        return False
    return all(value in ("0", "1", "-1") for value in rows[1][1:])


def _is_set(value: str) -> bool:
    if value not in ("0", "1", "-1"):
        raise Invalid(f"one of its values is {shown(value)}, 0 or 1 is expected")
    return value == "1"
