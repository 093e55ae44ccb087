"""CSV lists of images with one class each: the columns `path`, `label` and maybe `split`.

A folder that `vertebra label` has written is read by its list.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import torch

from vertebra.data import soft_labels
from vertebra.data.catalogue import SPLIT_NAMES, Catalogue, Sample
from vertebra.data.exports import first_rows
from vertebra.data.formats import ReadOptions, csv_tags
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import read_text
from vertebra.structures import Target

PRIORITY = 10
FIELDS = frozenset({"label"})
TITLE = "CSV lists"
COLUMNS = ("path", "label", "split")
"""Those that are read."""


def recognise(path: Path) -> bool:
    """Whether it is a file that ends in .csv, unless it has tags and no column `label`, or a folder of soft labels."""
    if path.is_dir():
        return soft_labels.is_folder(path) and _has_labels(path / soft_labels.LIST)
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return _has_labels(path) or not csv_tags.recognise(path)


def _has_labels(file: Path) -> bool:
    return "label" in [column.lower() for row in first_rows(file)[:1] for column in row]


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of a list; paths are relative to the list.

    Raises:
        VertebraError: if the list is damaged, lacks a column or is empty, or a file in it is not there.
    """
    path = path / soft_labels.LIST if path.is_dir() else path
    rows = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        columns = [column.strip().lower() for column in next(rows, [])]
        if "path" not in columns or "label" not in columns:
            raise VertebraError(
                f"{path}, line 1: a list of images has the columns path, label and maybe split; "
                f"this one has {escaped(', '.join(columns)[:300]) or 'none'}."
            )
        if twice := next((column for column in columns if column in COLUMNS and columns.count(column) > 1), None):
            raise VertebraError(f"{path}, line 1: there are two columns called {twice}.")
        lines = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise VertebraError(f"{path}, line {rows.line_num}: cannot be read as CSV ({error}).") from error
    entries: list[tuple[Path, str, str]] = []
    for line, row in lines:
        if len(row) > len(columns):
            raise VertebraError(
                f"{path}, line {line}: it has {len(row)} values, but there are {len(columns)} columns; a value with "
                "a comma stands in double quotes."
            )
        values = dict.fromkeys(COLUMNS, "") | dict(zip(columns, row, strict=False))
        label, split = values["label"].strip(), values["split"].strip().lower() or "train"
        if not values["path"] or not label:
            raise VertebraError(f"{path}, line {line}: path or label is empty.")
        image = path.parent / values["path"]
        if not os.path.isfile(image):
            raise VertebraError(f"{path}, line {line}: {escaped(str(image)[:300])} is not there.")
        if split not in SPLIT_NAMES:
            raise VertebraError(f"{path}, line {line}: split is {shown(split)}, not one of {', '.join(SPLIT_NAMES)}.")
        entries.append((image, label, SPLIT_NAMES[split]))
    if not entries:
        raise VertebraError(f"{path} lists no images.")
    classes = tuple(sorted({label for _, label, _ in entries}))
    index = {name: torch.tensor(i) for i, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = {}
    for image, label, split in entries:
        splits.setdefault(split, []).append(Sample(image, Target(label=index[label], path=str(image))))
    return Catalogue(str(path), "csv", classes, splits)
