"""Pairs of sentences: tab-separated lines, CSV with a header, or two parallel files.

A file of pairs is `NAME.tsv` (source, tab, target; further columns are ignored) or a CSV file with the columns `source`
and `target`, and maybe `split`, separated by commas, semicolons or tabs. A folder holds such files, or parallel text
files with a line per sentence, named after their split and language as `train.de` and `train.en`; of the two languages
the first by alphabet is the source. Two such files alone may have any name (`europarl.de`, `europarl.en`), or be
`source.txt` and `target.txt`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from vertebra.data.catalogue import SPLIT_NAMES, Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.data.sentences import pair, problem
from vertebra.errors import VertebraError, shown
from vertebra.files import read_bytes

PRIORITY = 7
FIELDS = frozenset({"text"})
TITLE = "pairs of sentences"
MAX_BYTES = 2_000_000_000
"""Of a file."""
CODE = re.compile(r"\.[a-z]{2}([_-][a-z]{2,4})?", re.IGNORECASE)
"""The ending of a file that is called after a language, such as `.de`, `.pt_BR`."""
LANGUAGE = re.compile(r"\.[a-z]{1,3}([_-][a-z]{2,4})?", re.IGNORECASE)
"""Likewise where the file is also called after a split: anything short."""
SEPARATORS = ",;\t"
"""Of the columns of a CSV; spreadsheets write semicolons where a comma is the decimal mark."""
SIDES = {("source", "target"), ("src", "tgt"), ("src", "trg")}


def recognise(path: Path) -> bool:
    """Whether it is a .tsv file, a CSV with the columns `source` and `target`, or a folder of such or of parallel
    files."""
    if path.is_file():
        return _is_table(path)
    return path.is_dir() and bool(_tables(path) or _parallel(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The pairs of a file or a folder; lines that are no pair are listed in `problems`.

    Raises:
        VertebraError: if there is no pair, or parallel files have different numbers of lines.
    """
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    if path.is_file() or _tables(path):
        for table in [path] if path.is_file() else _tables(path):
            usual = SPLIT_NAMES.get(table.stem.lower(), "train")
            for where, source, text, split in _rows(table, usual, problems):
                _add(splits, problems, where, source, text, split)
    else:
        for split, (first, second) in _parallel(path).items():
            lines = [_lines(file) for file in (first, second)]
            if len(lines[0]) != len(lines[1]):
                raise VertebraError(
                    f"{first} has {len(lines[0])} lines and {second.name} {len(lines[1])}; line by line they must be "
                    "translations of each other."
                )
            for number, (source, text) in enumerate(zip(*lines, strict=True), 1):
                _add(splits, problems, f"{first}, line {number}", source, text, split)
    if not splits:
        reason = f": {problems[0]}" if problems else "."
        raise VertebraError(f"{path} has no pair of sentences{reason}")
    return Catalogue(str(path), "pairs", ("sentence",), splits, problems=problems, has=FIELDS, items="sentence pairs")


def _add(splits: dict[str, list[Sample]], problems: list[str], where: str, source: str, text: str, split: str) -> None:
    source, text = source.strip(), text.strip()
    if reason := problem(source, text):
        problems.append(f"{where}: {reason}.")
    else:
        splits.setdefault(split, []).append(pair(source, text, where))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".tsv" or bool(path.suffix.lower() == ".csv" and _separator(path))


def _separator(path: Path) -> str:
    """What separates the columns `source` and `target` in the header of a CSV; empty if it has none such."""
    with path.open("rb") as file:
        header = file.readline(1000).decode("utf-8", "replace").lstrip("\ufeff").lower()
    for separator in SEPARATORS:
        if {"source", "target"} <= {column.strip(' "\r\n') for column in header.split(separator)}:
            return separator
    return ""


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _is_table(file))


def hint(path: Path) -> str:
    """Of parallel files, which one is missing."""
    named = _named(path)
    languages = sorted({file.suffix for files in named.values() for file in files})
    if len(languages) != 2:
        return ""
    missing = [
        files[0].with_suffix(language)
        for files in named.values()
        for language in languages
        if language not in {file.suffix for file in files}
    ]
    return f"{path} has parallel files, but not {missing[0].name}." if missing else ""


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _named(folder: Path) -> dict[str, list[Path]]:
    """The files of each split that are called after it and a language."""
    named: dict[str, list[Path]] = {}
    for file in _files(folder):
        if file.stem.lower() in SPLIT_NAMES and LANGUAGE.fullmatch(file.suffix):
            named.setdefault(SPLIT_NAMES[file.stem.lower()], []).append(file)
    return named


def _parallel(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The two files of each split; of a folder with two files alone, those of the train split."""
    files = _files(folder)
    if len(files) == 2 and _are_parallel(*files):
        return {SPLIT_NAMES.get(files[0].stem.lower(), "train"): (files[0], files[1])}
    named = _named(folder)
    languages = {tuple(file.suffix for file in members) for members in named.values()}
    if len(languages) != 1 or len(next(iter(languages))) != 2:
        return {}
    return {split: (first, second) for split, (first, second) in named.items()}


def _are_parallel(first: Path, second: Path) -> bool:
    """Whether two files are called after languages, as `europarl.de` and `europarl.en`, or `source` and `target`."""
    if (first.stem.lower(), second.stem.lower()) in SIDES:
        return first.suffix == second.suffix
    return first.stem == second.stem and all(CODE.fullmatch(file.suffix) for file in (first, second))


def _lines(path: Path) -> list[str]:
    """Its lines; bytes that are not UTF-8 become the replacement character, which `problem` reports."""
    text = read_bytes(path, MAX_BYTES).decode("utf-8-sig", "replace")
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _rows(path: Path, usual: str, problems: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Name of the line, source, target and split."""
    if path.suffix.lower() == ".tsv":
        for number, line in enumerate(_lines(path), 1):
            where = f"{path}, line {number}"
            columns = line.split("\t")
            if len(columns) >= 2:
                yield where, columns[0], columns[1], usual
            elif line.strip():
                problems.append(f"{where}: there is no tab between source and target.")
        return
    rows = csv.reader(io.StringIO("\n".join(_lines(path))), delimiter=_separator(path), strict=True)
    try:
        header = [column.strip().lower() for column in next(rows)]
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            values = dict(zip(header, row, strict=False))
            split = values.get("split", "").strip().lower() or usual
            if split not in SPLIT_NAMES:
                raise VertebraError(f"{where}: split is {shown(split)}, not one of {', '.join(SPLIT_NAMES)}.")
            if row:
                yield where, values.get("source", ""), values.get("target", ""), SPLIT_NAMES[split]
    except csv.Error as error:
        raise VertebraError(f"{path}, line {rows.line_num}: cannot be read as CSV ({error}).") from error
