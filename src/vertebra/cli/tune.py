"""`vertebra tune CHECKPOINT`: the engines on this machine, and the fastest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import escaped


@dataclass
class TuneData:
    path: str = ""
    """Images that exported models are compared on, and int8 calibrated, as in `vertebra export`."""


@dataclass
class Options:
    precision: Literal["32-true", "bf16-mixed", "int8"] = "32-true"
    """The least precise number format that is allowed; engines are measured in it, where they have it, and in
    float32."""
    data: TuneData = field(default_factory=TuneData)
    """Data to export with"""


def run(argv: Sequence[str]) -> None:
    arguments = parser("tune", "Measures the engines on this machine and remembers the fastest beside the checkpoint.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)

    from vertebra.predict import engines

    rows = engines.measure(options.checkpoint, options.precision, options.data.path or None)
    table = Table("engine", box=SIMPLE_HEAD)
    table.add_column("precision")
    for heading in ("milliseconds per image", "seconds to start", "predictions that agree"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.milliseconds is not None:
            times = (f"{row.milliseconds:.1f}", f"{row.start or 0:.1f}")
            table.add_row(row.engine, row.precision, *times, f"{row.agreement or 0:.2%}")
    console().print(table)
    for row in rows:
        if row.problem:
            print(escaped(f"without {row.engine} in {row.precision}: {row.problem}"))
    winner = engines.best(rows)
    print(f"the fastest is {winner.engine} in {winner.precision}; engine=auto takes it")
