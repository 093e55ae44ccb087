"""Texts with class labels: CSV or tab-separated files with a header, or a folder of text files per class.

A table has the columns `text` and `label`, and maybe `question` and `split`. A folder holds such tables, named after
their split, or a folder per class with text files in it, maybe below folders of the splits.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vertebra.data.catalogue import SPLIT_NAMES, Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.data.sentences import text_sample
from vertebra.errors import VertebraError, shown
from vertebra.files import read_bytes

PRIORITY = 6
FIELDS = frozenset({"label"})
TITLE = "texts with a class"
MAX_BYTES = 2_000_000_000
"""Of a table."""
MAX_TEXT = 1_000_000
"""Bytes of a text."""
IMAGE = re.compile("file|image|path")
"""In the name of a column: the table is of images, whose text is not what has the class."""
LISTED = 20
"""Files of a folder by which it is recognised."""

Row = tuple[str, str, str, str, str]
"""Name of the line or file, text, question, class and split."""


def recognise(path: Path) -> bool:
    """Whether it is a table with the columns `text` and `label`, or a folder of such or of folders of text files."""
    if path.is_file():
        return _is_table(path)
    return path.is_dir() and bool(_tables(path) or _class_folders(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The texts; lines and files that are none are listed in `problems`.

    Raises:
        VertebraError: if there is no text, or a table cannot be read.
    """
    problems: list[str] = []
    rows: list[Row] = []
    if path.is_file() or (tables := _tables(path)):
        for table in [path] if path.is_file() else tables:
            rows += _rows(table, SPLIT_NAMES.get(table.stem.lower(), "train"))
    else:
        for folder, split in _class_folders(path):
            rows += _files(folder, split)
    good: list[Row] = []
    for row in rows:
        if reason := _problem(*row[1:4]):
            problems.append(f"{row[0]}: {reason}.")
        else:
            good.append(row)
    if not good:
        raise VertebraError(f"{path} has no text with a class{f': {problems[0]}' if problems else '.'}")
    classes = tuple(sorted({label for _, _, _, label, _ in good}))
    splits: dict[str, list[Sample]] = {}
    for where, text, question, label, split in good:
        splits.setdefault(split, []).append(text_sample(text, question, classes.index(label), where))
    return Catalogue(str(path), "texts", classes, splits, problems=problems, has=FIELDS, items="texts")


def _problem(text: str, question: str, label: str) -> str:
    """What is wrong with a text, to stand behind its name; empty if nothing is."""
    for name, value in {"text": text, "label": label}.items():
        if not value:
            return f"the {name} is empty"
    for name, value in {"text": text, "question": question, "label": label}.items():
        if "�" in value:
            return f"the {name} is not UTF-8"
    if len(text.encode()) > MAX_TEXT:
        return f"the text has {len(text.encode()):,} bytes, more than {MAX_TEXT:,}"
    return ""


def _is_table(path: Path) -> bool:
    if path.suffix.lower() not in (".csv", ".tsv"):
        return False
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as file:
        header = file.readline(1000).decode("utf-8", "replace").lstrip("﻿").lower()
    columns = {column.strip(' "\r\n') for column in header.split(delimiter)}
    return {"text", "label"} <= columns and not any(IMAGE.search(column) for column in columns)


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _is_table(file))


def _class_folders(path: Path) -> list[tuple[Path, str]]:
    """The folder of each class and its split; none if these are no classes of text files."""
    folders = _folders(path)
    if folders and all(folder.name.lower() in SPLIT_NAMES for folder in folders):
        inner = [(item, SPLIT_NAMES[folder.name.lower()]) for folder in folders for item in _folders(folder)]
    else:
        inner = [(folder, "train") for folder in folders]
    return inner if len(inner) > 1 and all(_holds_texts(folder) for folder, _ in inner[:LISTED]) else []


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _holds_texts(folder: Path) -> bool:
    """Whether text files lie in a folder, and nothing else."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry, _ in zip(entries, range(LISTED), strict=False)]
    return bool(names) and all(name.lower().endswith(".txt") for name in names)


def _files(folder: Path, split: str) -> Iterator[Row]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".txt" and file.is_file():
            text = read_bytes(file, MAX_TEXT).decode("utf-8-sig", "replace")
            yield str(file), text.strip(), "", folder.name, split


def _rows(path: Path, usual: str) -> Iterator[Row]:
    text = read_bytes(path, MAX_BYTES).decode("utf-8-sig", "replace")
    rows: Iterator[list[str]]
    if path.suffix.lower() == ".tsv":
        rows = (line.rstrip("\r").split("\t") for line in text.split("\n"))
        yield from _named(path, enumerate(rows, 1), usual)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _named(path, ((reader.line_num, row) for row in reader), usual)
    except csv.Error as error:
        raise VertebraError(f"{path}, line {reader.line_num}: cannot be read as CSV ({error}).") from error


def _named(path: Path, numbered: Iterator[tuple[int, list[str]]], usual: str) -> Iterator[Row]:
    """The rows of a table by the names in its first."""
    _, first = next(numbered)
    header = [column.strip().lower() for column in first]
    for number, row in numbered:
        where = f"{path}, line {number}"
        values = {name: value.strip() for name, value in zip(header, row, strict=False)}
        split = values.get("split", "").lower() or usual
        if split not in SPLIT_NAMES:
            raise VertebraError(f"{where}: split is {shown(split)}, not one of {', '.join(SPLIT_NAMES)}.")
        if any(row):
            label = values.get("label", "")
            yield where, values.get("text", ""), values.get("question", ""), label, SPLIT_NAMES[split]
