"""CSV lists of images with one class each: the columns `path`, `label` and maybe `split`."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError
from vertebra.structures import Target

PRIORITY = 10
FIELDS = frozenset({"label"})
FILE = "a .csv list"


def recognise(path: Path) -> bool:
    """Whether it is a file that ends in .csv."""
    return path.suffix.lower() == ".csv" and path.is_file()


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of a list; paths are relative to the list.

    Raises:
        VertebraError: if the list is damaged, lacks a column or is empty, or a file in it is not there.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        try:
            columns = [c.strip().lower() for c in rows.fieldnames or []]
            if "path" not in columns or "label" not in columns:
                raise VertebraError(
                    f"{path}, line 1: a list of images has the columns path, label and maybe split; "
                    f"this one has {', '.join(columns) or 'none'}."
                )
            rows.fieldnames = columns
            entries = [(rows.line_num, row) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise VertebraError(f"{path}, line {rows.line_num + 1}: cannot be read as CSV ({error}).") from error
    split_names = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    for line, row in entries:
        if not row["path"] or not row["label"]:
            raise VertebraError(f"{path}, line {line}: path or label is empty.")
        if not (path.parent / row["path"]).is_file():
            raise VertebraError(f"{path}, line {line}: {path.parent / row['path']} is not there.")
        if (row.get("split") or "train").strip().lower() not in split_names:
            raise VertebraError(f"{path}, line {line}: split is {row['split']!r}, not one of {', '.join(split_names)}.")
    if not entries:
        raise VertebraError(f"{path} lists no images.")
    classes = tuple(sorted({row["label"] for _, row in entries}))
    index = {name: i for i, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = {}
    for _, row in entries:
        split = split_names[(row.get("split") or "train").strip().lower()]
        image = path.parent / row["path"]
        target = Target(label=torch.tensor(index[row["label"]]), path=str(image))
        splits.setdefault(split, []).append(Sample(image, target))
    return Catalogue(str(path), "csv", classes, splits)
