"""`vertebra models`: every backbone and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.errors import VertebraError, nearest
from vertebra.ledger import Entry, entries


@dataclass
class Options:
    family: str | None = None
    """Show this family alone."""
    sort: Literal["name", "parameters", "macs", "top1"] = "name"
    """Order; `name` keeps families together."""
    weights: bool = False
    """List every known checkpoint with its licence and published accuracy."""
    json: bool = False
    """Print JSON instead of a table."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("models", "Lists every backbone: exact parameters and multiply-adds with a classifier of 1000.")
    arguments.add_argument("pattern", nargs="?", default="", help="Part of a name.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    found = [e for e in entries() if chosen.pattern in e.name]
    if not found:
        raise VertebraError(
            f"no backbone's name contains {chosen.pattern!r}.{nearest(chosen.pattern, [e.name for e in entries()])}"
        )
    if chosen.family:
        families = sorted({e.family for e in entries()})
        if chosen.family not in families:
            hint = nearest(chosen.family, families)
            raise VertebraError(f"no family is called {chosen.family!r}; there are {', '.join(families)}.{hint}")
        found = [e for e in found if e.family == chosen.family]
    if chosen.sort != "name":
        found.sort(key=lambda e: {"parameters": e.parameters, "macs": e.macs, "top1": -(e.top1 or 0)}[chosen.sort])
    if chosen.json:
        print(json.dumps([e.__dict__ for e in found], indent=1))
        return
    console = Console()
    if console.width < 150:
        console.width = 150  # a narrow terminal would break the names
    console.print(_weights_table(found) if chosen.weights else _table(found))


def _table(found: Sequence[Entry]) -> Table:
    table = Table(title=f"{len(found)} backbones", caption="top-1: in % on ImageNet-1k, as published; by whom")
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "GMACs", "at", "top-1"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    table.add_column("levels, stride:channels", no_wrap=True)
    table.add_column("licences of known weights")
    for e in found:
        licences = ", ".join(sorted({w["licence"] for w in e.weights.values()})) or "-"
        levels = " ".join(f"{stride}:{channels}" for stride, channels in e.levels)
        top1 = f"{e.top1:.1f}" if e.top1 else "-"
        macs = f"{e.macs / 1e9:.3f}"
        table.add_row(e.name, f"{e.parameters:,}", macs, str(e.size), top1, e.top1_source, levels, licences)
    return table


def _weights_table(found: Sequence[Entry]) -> Table:
    table = Table(title="known checkpoints, for --weights=NAME", caption="-nc- licences forbid commercial use")
    table.add_column("name", no_wrap=True)
    for column in ("top-1", "size"):
        table.add_column(column, justify="right")
    table.add_column("licence")
    table.add_column("Hub repository", no_wrap=True)
    for e in found:
        for name, w in e.weights.items():
            table.add_row(name, f"{w['top1']:.3f}" if w["top1"] else "-", str(w["size"]), w["licence"], w["hub"])
    return table
