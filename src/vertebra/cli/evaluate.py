"""`vertebra evaluate CHECKPOINT --data.path=…`: metrics, and a report of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.data import open_data
from vertebra.data.catalogue import restrict
from vertebra.engine import checkpoint
from vertebra.engine.evaluate import evaluate
from vertebra.errors import VertebraError
from vertebra.metrics.evaluation import Evaluation
from vertebra.tasks import Task
from vertebra.viz import report


@dataclass
class Data:
    path: str = ""
    """Folder, CSV list, IDX folder or `shapes`, as `vertebra train` takes it; the run's own data if not given."""
    split: Literal["train", "val", "test"] = "val"
    """Which part of it."""
    val_share: float | None = None
    """Share set apart for validation where the data has no val split; as in training if not given."""
    seed: int | None = None
    """Of that split; as in training if not given."""
    batch_size: int = 32
    """Pictures that go through the network together."""
    workers: int | None = None
    """Processes that read pictures; chosen by the number of cores if not given."""


@dataclass
class Options:
    data: Data = field(default_factory=Data)
    """Which pictures."""
    strict: bool = False
    """Stop at the first picture that cannot be read, instead of listing it and going on."""
    save: str | None = None
    """Folder for evaluation.json and report.html."""
    device: str | None = None
    """Where to run, such as cpu or cuda; the fastest there is if not given."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("evaluate", "Measures a trained model on a data set.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    task, about = checkpoint.load(chosen.checkpoint, device=chosen.device)
    trained = about.get("data", {})
    path = chosen.data.path or trained.get("path")
    if not path:
        raise VertebraError("the checkpoint does not say what it was trained on: give --data.path.")
    val_share = trained.get("val_share", 0.2) if chosen.data.val_share is None else chosen.data.val_share
    seed = trained.get("seed", 0) if chosen.data.seed is None else chosen.data.seed
    catalogue = open_data(path, val_share=val_share, seed=seed)
    samples = restrict(catalogue.split(chosen.data.split), catalogue.classes, task.classes)
    found = evaluate(
        task,
        samples,
        batch_size=chosen.data.batch_size,
        workers=chosen.data.workers,
        strict=chosen.strict,
        progress=True,
    )
    _print(found, task, f"{chosen.checkpoint} on {path}, {chosen.data.split}")
    if chosen.save:
        folder = Path(chosen.save)
        folder.mkdir(parents=True, exist_ok=True)
        report.save(
            folder,
            title=f"{chosen.checkpoint} on {path}",
            task=task,
            evaluation=found,
            samples=samples,
            broken=found.broken,
        )
        print(f"look at {folder / 'report.html'}")


def _print(found: Evaluation, task: Task, title: str) -> None:
    console = Console()
    numbers = Table(title=title)
    numbers.add_column("metric")
    numbers.add_column("value", justify="right")
    for key, label in task.metrics().labels.items():
        numbers.add_row(label, f"{found.metrics[key]:.4f}")
    numbers.add_row("pictures", str(len(found.rows)))
    console.print(numbers)
    per_class = found.metrics["per_class"]
    table = Table("class", title="per class")
    for key in per_class:
        table.add_column(key, justify="right")
    for i, name in enumerate(task.classes):
        cells = (f"{values[i]:.3f}" if key != "support" else str(values[i]) for key, values in per_class.items())
        table.add_row(name, *cells)
    console.print(table)
    for sentence in found.broken:
        print(f"left out: {sentence}")
    if found.broken:
        print(f"{len(found.broken)} pictures could not be read and were left out")
