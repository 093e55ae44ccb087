"""`vertebra verify`: the ledger, checked again on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from vertebra import backbones, ledger
from vertebra.backbones.facts import facts
from vertebra.cli.parsing import parse, parser
from vertebra.errors import VertebraError
from vertebra.ledger.check import compare
from vertebra.ledger.reference import Comparison, others, references


@dataclass
class Options:
    reference: str | None = None
    """Another folder of reference files, beside those that ship with Vertebra."""
    counts: bool = False
    """Check parameters and multiply-adds alone, which takes seconds."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("verify", "Compares every backbone and detector with its reference numbers on this machine.")
    arguments.add_argument(
        "names", nargs="*", help="Backbones, with the detectors that have them; all if none is named."
    )
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    names = [backbones.public_name(name) for name in chosen.names] or backbones.names()
    folders = [ledger.FOLDER, *([Path(chosen.reference)] if chosen.reference else [])]
    known = [] if chosen.counts else [r for folder in folders for r in references(folder) if r.name in names]
    written = {entry.name: entry for entry in ledger.entries()}
    compared: dict[str, list[Comparison]] = {name: [] for name in names}
    detectors: list[Comparison] = []
    for reference in track(known, "comparing", transient=True):
        (detectors if reference.detects else compared[reference.name]).append(compare(reference))
    table = Table(title="ledger", caption="difference: largest over all outputs, in deviations of the output")
    table.add_column("backbone", no_wrap=True)
    for column in ("parameters", "GMACs", "references", "difference"):
        table.add_column(column, justify="right")
    table.add_column("result")
    problems: list[str] = []
    for name in track(names, "counting", transient=True):
        counted, row = facts(name), written.get(name)
        bad = [f"{c.reference.path.stem}: {problem}" for c in compared[name] for problem in c.problems]
        if row is None:
            bad.append("not in the ledger")
        elif (row.parameters, row.macs) != (counted.parameters, counted.macs):
            bad.append(f"the ledger has {row.parameters:,} parameters and {row.macs:,} multiply-adds")
        problems += [f"{name}: {text}" for text in bad]
        apart = max((c.difference for c in compared[name]), default=None)
        table.add_row(
            name,
            f"{counted.parameters:,}",
            f"{counted.macs / 1e9:.3f}",
            str(len(compared[name]) or "-"),
            "-" if apart is None else f"{apart:.1e}",
            "different" if bad else "equal" if compared[name] else "counts equal",
        )
    wrong = {p.partition(":")[0] for p in problems}
    console = Console()
    if console.width < 100:
        console.width = 100
    console.print(table)
    if detectors:
        console.print(_of_detectors(detectors))
    for c in detectors:
        for remark in c.remarks:
            print(f"{c.reference.path.stem}: {remark}")
        problems += [f"{c.reference.path.stem}: {problem}" for problem in c.problems]
    if chosen.reference and (left := others(Path(chosen.reference))):
        print(f"left out, being of no model that Vertebra compares: {', '.join(left)}")
    for problem in problems:
        print(f"problem: {problem}")
    all_compared = [*detectors, *(c for comparisons in compared.values() for c in comparisons)]
    equal = sum(not c.problems for c in all_compared)
    as_written = f"{len(names) - len(wrong)} of {len(names)} backbones as in the ledger"
    print(f"{as_written}; {equal} of {len(all_compared)} references equal")
    if problems:
        sys.stdout.flush()
        raise VertebraError("this machine's numbers differ from the ledger's in the places named above.")


def _of_detectors(comparisons: Sequence[Comparison]) -> Table:
    """A row for each; an output is a stage of the detector, or a term of its loss."""
    table = Table(title="detectors")
    table.add_column("reference", no_wrap=True)
    table.add_column("backbone", no_wrap=True)
    for column in ("outputs", "difference"):
        table.add_column(column, justify="right")
    table.add_column("result")
    for c in comparisons:
        counted = f"{len(c.compared)} of {len(c.reference.spec['outputs'])}"
        result = "different" if c.problems else "equal"
        table.add_row(c.reference.path.stem, c.reference.name, counted, f"{c.difference:.1e}", result)
    return table
