"""Tables as wide as the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vertebra.progress import on_terminal

NAME_WIDTH = 24
"""Longer names are folded where there is no room for them."""
GAP = 3
"""Characters between two columns."""


def console(wide: int = 80) -> Console:
    """A console of the terminal's width, and in a pipe, where lines are not cut off, `wide`."""
    return Console(width=None if on_terminal() or "COLUMNS" in os.environ else wide)


def side_by_side(names: Sequence[str], columns: Mapping[str, Sequence[str]], width: int, title: str) -> Iterator[Table]:
    """A row per name and a column per list of values; those that `width` has no room for are in further tables.

    Args:
        columns: the values by heading; values are never folded, and headings at spaces.
        title: heading of the names.
    """
    widths = {
        heading: max(len(text) for text in (*heading.split(), *values)) + GAP for heading, values in columns.items()
    }
    longest = max((len(name) for name in names), default=0)
    room = width - GAP - max(len(title), min(NAME_WIDTH, longest))
    parts: list[list[str]] = [[]]
    for heading, needed in widths.items():
        if parts[-1] and sum(widths[other] for other in parts[-1]) + needed > room:
            parts.append([])
        parts[-1].append(heading)
    for part in parts:
        table = Table(title, box=SIMPLE_HEAD)
        table.columns[0].overflow = "fold"
        for heading in part:
            table.add_column(heading, justify="right", min_width=widths[heading] - GAP)
        for name, *values in zip(names, *(columns[heading] for heading in part), strict=True):
            table.add_row(escape(name), *values)
        yield table
