"""A text file with a path or URL per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vertebra.files import read_text
from vertebra.predict import sources

PRIORITY = 50
DESCRIPTION = "a list (.txt) with a path or URL per line"
IN_LISTS = False
MAX_BYTES = 64 << 20


def recognise(word: str) -> bool:
    return word.lower().endswith(".txt") and Path(word).is_file()


def expand(word: str) -> Iterator[sources.Source]:
    """Paths are relative to the current folder, or else to the folder of the list."""
    return sources.expand_lines(read_text(word, MAX_BYTES), Path(word).parent)
