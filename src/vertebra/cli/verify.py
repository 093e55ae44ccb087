"""`vertebra verify`: the ledger, computed again on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra import backbones, ledger
from vertebra.backbones.facts import facts
from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import VertebraError
from vertebra.ledger.check import compare
from vertebra.ledger.reference import Comparison, others, references
from vertebra.progress import track


@dataclass
class Options:
    reference: str | None = None
    """Another folder of reference files, in addition to those that ship with Vertebra."""
    counts: bool = False
    """Check parameters and multiply-adds only, which takes seconds."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("verify", "Compares every backbone with its reference outputs on this machine.")
    arguments.add_argument("names", nargs="*", help="Backbones; all if none is named.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    names = [backbones.public_name(name) for name in options.names] or backbones.names()
    folders = [ledger.FOLDER, *([Path(options.reference)] if options.reference else [])]
    known = [] if options.counts else [r for folder in folders for r in references(folder) if r.name in names]
    entries = {entry.name: entry for entry in ledger.entries()}
    comparisons: dict[str, list[Comparison]] = {name: [] for name in names}
    for reference in track(known, "comparing"):
        comparisons[reference.name].append(compare(reference))
    table = Table(
        title="ledger",
        caption="files: of reference outputs; difference: largest of all outputs, in standard deviations of the output",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("backbone", no_wrap=True)
    for column in ("parameters", "GMACs", "files", "difference"):
        table.add_column(column, justify="right")
    table.add_column("result")
    problems: dict[str, list[str]] = {}
    for name in track(names, "counting"):
        counts, entry = facts(name), entries.get(name)
        differing = [f"{c.reference.path.stem}: {problem}" for c in comparisons[name] for problem in c.problems]
        if entry is None:
            differing.append("not in the ledger")
        elif (entry.parameters, entry.macs) != (counts.parameters, counts.macs):
            differing.append(f"the ledger has {entry.parameters:,} parameters and {entry.macs:,} multiply-adds")
        if differing:
            problems[name] = differing
        largest = max((comparison.difference for comparison in comparisons[name]), default=None)
        table.add_row(
            name,
            f"{counts.parameters:,}",
            f"{counts.macs / 1e9:.3f}",
            str(len(comparisons[name]) or "-"),
            "-" if largest is None else f"{largest:.1e}",
            "different" if differing else "equal" if comparisons[name] else "counts equal",
        )
    console(100).print(table)
    if options.reference and (skipped := others(Path(options.reference))):
        print(f"skipped, because no backbone of Vertebra is compared with them: {', '.join(skipped)}")
    for name, sentences in problems.items():
        for sentence in sentences:
            print(f"problem: {name}: {sentence}")
    results = [comparison for of_backbone in comparisons.values() for comparison in of_backbone]
    equal = sum(not comparison.problems for comparison in results)
    print(
        f"{len(names) - len(problems)} of {len(names)} backbones as in the ledger; "
        f"{equal} of {len(results)} references equal"
    )
    if problems:
        sys.stdout.flush()
        raise VertebraError("this machine's numbers differ from the ledger's for the backbones named above.")
