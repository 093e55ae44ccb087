"""`vertebra models`: every backbone with its size, cost, levels and known weights."""

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
    """List this family only."""
    sort: Literal["name", "parameters", "macs", "top1"] = "name"
    """Order of the rows; `name` keeps families together."""
    weights: bool = False
    """List every known checkpoint with its licence and published accuracy."""
    json: bool = False
    """Print JSON instead of a table."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("models", "Lists every backbone: exact parameters and multiply-adds with a classifier of 1000.")
    arguments.add_argument("pattern", nargs="?", default="", help="Part of a name.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    every = entries()
    shown = [entry for entry in every if options.pattern in entry.name]
    if not shown:
        hint = nearest(options.pattern, [entry.name for entry in every])
        raise VertebraError(f"no backbone's name contains {options.pattern!r}.{hint}")
    if options.family:
        families = sorted({entry.family for entry in every})
        if options.family not in families:
            hint = nearest(options.family, families)
            raise VertebraError(f"no family is called {options.family!r}; there are {', '.join(families)}.{hint}")
        shown = [entry for entry in shown if entry.family == options.family]
    if options.sort != "name":
        shown.sort(key=lambda entry: -(entry.top1 or 0) if options.sort == "top1" else getattr(entry, options.sort))
    if options.json:
        print(json.dumps([entry.__dict__ for entry in shown], indent=1))
        return
    console = Console()
    if console.width < 150:
        console.width = 150  # a narrow terminal would break the names
    console.print(_weights_table(shown) if options.weights else _table(shown))


def _table(backbones: Sequence[Entry]) -> Table:
    table = Table(title=f"{len(backbones)} backbones", caption="top-1: in % on ImageNet-1k, as published; by whom")
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "GMACs", "at", "top-1"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    table.add_column("levels, stride:channels", no_wrap=True)
    table.add_column("licences of known weights")
    for entry in backbones:
        table.add_row(
            entry.name,
            f"{entry.parameters:,}",
            f"{entry.macs / 1e9:.3f}",
            str(entry.size),
            f"{entry.top1:.1f}" if entry.top1 else "-",
            entry.top1_source,
            " ".join(f"{stride}:{channels}" for stride, channels in entry.levels),
            ", ".join(sorted({weights["licence"] for weights in entry.weights.values()})) or "-",
        )
    return table


def _weights_table(backbones: Sequence[Entry]) -> Table:
    table = Table(title="known checkpoints, for --weights=NAME", caption="-nc- licences forbid commercial use")
    table.add_column("name", no_wrap=True)
    for column in ("top-1", "size"):
        table.add_column(column, justify="right")
    table.add_column("licence")
    table.add_column("Hub repository", no_wrap=True)
    for entry in backbones:
        for name, weights in entry.weights.items():
            top1 = f"{weights['top1']:.3f}" if weights["top1"] else "-"
            table.add_row(name, top1, str(weights["size"]), weights["licence"], weights["hub"])
    return table
