"""`vertebra tune CHECKPOINT`: the engines on this machine, and the fastest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import escaped


@dataclass
class Options:
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format of the computation, as in `vertebra predict`."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("tune", "Measures the engines on this machine and remembers the fastest beside the checkpoint.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)

    from vertebra.predict import engines

    rows = engines.measure(options.checkpoint, options.precision)
    table = Table("engine", box=SIMPLE_HEAD)
    for heading in ("milliseconds per image", "predictions that agree"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.milliseconds is not None:
            share = "" if row.agreement is None else f"{row.agreement:.2%}"
            table.add_row(row.engine, f"{row.milliseconds:.1f}", share)
    console().print(table)
    for row in rows:
        if row.problem:
            print(escaped(f"without {row.engine}: {row.problem}"))
    print(f"the fastest is {engines.best(rows).engine}; engine=auto takes it")
