"""`vertebra recipes`: every published training recipe, its task, source and score; or the text of one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.engine import recipes


def run(argv: Sequence[str]) -> None:
    arguments = parser("recipes", "Lists the training recipes, or prints the options of one.")
    arguments.add_argument("name", nargs="?", help="Print this recipe, to be changed and given as --recipe=FILE.")
    options = parse(arguments, argv)
    if options.name:
        print(recipes.text(options.name), end="")
        return
    table = Table(box=SIMPLE_HEAD, caption="train with: vertebra train --recipe=NAME --data.path=DATA")
    table.add_column("recipe", no_wrap=True)
    table.add_column("task", no_wrap=True)
    table.add_column("source")
    table.add_column("published score")
    for name in recipes.names():
        about = recipes.about(name)
        task = str(recipes.read(name).get("task"))
        table.add_row(*map(escape, (name, task, about.get("Source", "-"), about.get("Published", "-"))))
    console().print(table)
