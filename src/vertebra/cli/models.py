"""`vertebra models`: every backbone with its size, cost, levels and known weights."""

from __future__ import annotations

import fnmatch
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import VertebraError, nearest
from vertebra.ledger import Entry, entries

WIDE = 150
"""Columns from which each row is one line."""


@dataclass
class Options:
    family: str | None = None
    """List this family only."""
    sort: Literal["name", "parameters", "macs", "top1"] = "name"
    """Order of the rows; `name` keeps families together."""
    weights: bool = False
    """List every known checkpoint with its task, licence and published accuracy."""
    task: str | None = None
    """With --weights: list those of this task only."""
    json: bool = False
    """Print JSON instead of a table."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("models", "Lists every backbone: exact parameters and multiply-adds with a classifier of 1000.")
    arguments.add_argument("pattern", nargs="?", help="Part of a name; `timm:conv*` lists timm's models of such names.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    pattern, screen = options.pattern or "", console(WIDE)
    if ":" in pattern:
        if options.family:
            raise VertebraError("family lists backbones of Vertebra; leave it out with the name of a library's model.")
        rows = _of_library(pattern)
        _show(rows, options.json, lambda: _library_table(rows))
        return
    every = entries()
    if options.family:
        families = sorted({entry.family for entry in every})
        if options.family not in families:
            hint = nearest(options.family, families)
            raise VertebraError(f"no family is called {options.family!r}; there are {', '.join(families)}.{hint}")
        every = [entry for entry in every if entry.family == options.family]
    if options.sort != "name":
        every.sort(key=lambda entry: -(entry.top1 or 0) if options.sort == "top1" else getattr(entry, options.sort))
    if options.weights:
        cards = _known_weights(pattern, options.task, [entry.name for entry in every])
        _show(cards, options.json, lambda: _weights_table(cards, screen.width))
        return
    if options.task:
        raise VertebraError("task selects among published checkpoints: add --weights.")
    shown = [entry for entry in every if pattern in entry.name]
    if not shown:
        hint = nearest(pattern, [entry.name for entry in every])
        raise VertebraError(f"no backbone's name contains {pattern!r}.{hint}")
    _show([entry.__dict__ for entry in shown], options.json, lambda: _table(shown, screen.width))


def _show(rows: Sequence[Mapping[str, Any]], as_json: bool, table: Callable[[], Table]) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console(WIDE).print(table())


def _known_weights(pattern: str, task: str | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """The published checkpoints of `task` and of the backbones `names` whose name, or that of their backbone, task or
    method, contains `pattern`."""
    from vertebra import tasks

    if task is not None:
        tasks.methods(task)  # raises if there is no such task
    rows = []
    for name, card in tasks.published().items():
        row = {
            "name": name,
            "task": card.task or "classification",
            "method": card.method,
            "backbone": card.backbone,
            "source": card.source,
            "metrics": {"top1": card.top1} if card.top1 else dict(card.metrics),
            "image_size": card.preprocess.size[0] if card.preprocess else None,
            "licence": card.licence,
            "bytes": card.size,
            "from": card.hub or card.url,
        }
        words = (name, card.task or "classification", card.method, card.backbone)
        if card.backbone in names and task in (None, row["task"]) and any(pattern in word for word in words):
            rows.append(row)
    if not rows:
        raise VertebraError(f"no published checkpoint is of {pattern!r}.{nearest(pattern, tasks.published())}")
    return sorted(rows, key=lambda row: (row["method"] != "", names.index(row["backbone"])))


def _of_library(pattern: str) -> list[dict[str, Any]]:
    """The models of a library whose names match a pattern with its prefix."""
    from vertebra import backbones

    module = backbones.library(pattern)
    if module is None:
        raise VertebraError(f"{pattern} names no library; `vertebra models timm:*` lists the models of timm.")
    matching = fnmatch.filter(
        module.VARIANTS, pattern if "*" in pattern else f"*{pattern.removeprefix(module.PREFIX)}*"
    )
    if not matching:
        raise VertebraError(str(module.unknown(pattern)))
    tags: dict[str, list[str]] = defaultdict(list)
    for name in module.WEIGHTS:
        model, _, tag = name.partition(".")
        tags[model] += [tag] if tag else []
    return [
        {"name": name, "image_size": module.VARIANTS[name].image_size[0], "weights": tags.get(name, [])}
        for name in matching
    ]


def _table(backbones: Sequence[Entry], width: int) -> Table:
    """A line for each; in less than WIDE columns, levels stand below the name, and licences below who published."""
    caption = "top-1: in % on ImageNet-1k, as published; by whom\nmodels of timm too: vertebra models timm:NAME"
    wide = width >= WIDE
    title = f"{len(backbones)} backbones"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=wide)
    levels, licences = "levels, stride:channels", "licences of known weights"
    table.add_column("name" if wide else f"name\n{levels}", overflow="fold", min_width=26)
    for column in ("parameters", "GMACs", "at", "top-1"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("by" if wide else f"by\n{licences}", overflow="fold", max_width=None if wide else 15)
    if wide:
        table.add_column(levels, no_wrap=True)
        table.add_column(licences)
    for entry in backbones:
        name, by = entry.name, entry.top1_source
        maps = " ".join(f"{stride}:{channels}" for stride, channels in entry.levels)
        separator = ", " if wide else "\n"
        known = separator.join(sorted({weights["licence"] for weights in entry.weights.values()})) or "-"
        table.add_row(
            name if wide else f"{name}\n{maps}",
            f"{entry.parameters:,}",
            f"{entry.macs / 1e9:.3f}",
            str(entry.size),
            f"{entry.top1:.1f}" if entry.top1 else "-",
            by if wide else f"{by or '-'}\n{known}",
            *([maps, known] if wide else []),
        )
        if not wide:
            table.add_section()
    return table


def _weights_table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A line for each; in less than WIDE columns, all else stands below the name."""
    wide = width >= WIDE
    table = Table(
        title=f"{len(rows)} known checkpoints, for --weights=NAME",
        caption="top-1 on ImageNet-1k at image size; AP on COCO val2017; in %; -nc- licences forbid commercial use",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    headings = ("name", "task, method, backbone", "from", "metrics", "licence", "size")
    for column in headings if wide else ("name\n  task, method, backbone; metrics; licence; size",):
        table.add_column(column, overflow="fold")
    for row in rows:
        metrics = ", ".join(
            f"{key.removesuffix('_ap').replace('top1', 'top-1')} {x:g}" for key, x in row["metrics"].items()
        )
        if row["image_size"]:
            metrics += f" at {row['image_size']}"
        size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else ""
        model = ", ".join(filter(None, (row["task"], row["method"], row["backbone"])))
        if wide:
            table.add_row(row["name"], model, row["source"], metrics, row["licence"], size)
        else:
            table.add_row(f"{row['name']}\n  {'; '.join(filter(None, (model, metrics, row['licence'], size)))}")
    return table


def _library_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{len(rows)} models", caption="weights=NAME.TAG", box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("name", overflow="fold", min_width=min(44, max(len(row["name"]) for row in rows)))
    table.add_column("image size", justify="right")
    table.add_column("tags of weights")
    for row in rows:
        table.add_row(row["name"], str(row["image_size"]), ", ".join(row["weights"]) or "-")
    return table
