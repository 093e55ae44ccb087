"""`vertebra methods`: every method of every task, its paper, and the checkpoints it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from vertebra import tasks
from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import one_of


@dataclass
class Options:
    json: bool = False
    """Print JSON instead of a table."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("methods", "Lists every method: its task, its paper, and whose checkpoints it reads.")
    arguments.add_argument("task", nargs="?", help="List the methods of this task only.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    if options.task:
        one_of("task", options.task, tasks.names())
    methods = [method for method in tasks.known_methods() if options.task in ("", method["task"])]
    if options.json:
        print(json.dumps(methods, indent=1))
        return
    table = Table(box=SIMPLE_HEAD, caption="train with: vertebra train TASK --model.method=METHOD")
    table.add_column("task", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("paper", min_width=len("arXiv:1234.56789,"))
    table.add_column("reads checkpoints of")
    previous = ""
    for method in methods:
        if previous not in ("", method["task"]):
            table.add_section()
        previous = method["task"]
        table.add_row(
            escape(method["task"]),
            escape(method["method"]),
            ", ".join(method["source"]) or "-",
            escape(", ".join(method["reads"])) or "-",
        )
    console().print(table)
