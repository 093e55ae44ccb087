"""`vertebra evaluate CHECKPOINT --data.path=…`: metrics, and a report of them; also of what another tool has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.data.catalogue import Catalogue, Sample, restrict, same_points
from vertebra.data.readers import divided, read
from vertebra.engine import checkpoint, results
from vertebra.engine.evaluate import evaluate, evaluate_results
from vertebra.errors import VertebraError, in_range
from vertebra.files import expanded
from vertebra.metrics.evaluation import Evaluation, written
from vertebra.viz import report

UNUSED = ("val_share", "seed", "batch_size", "workers")
"""Of Data, where COCO results are judged."""


@dataclass
class Data:
    path: str = ""
    """Data in any form that `vertebra train` takes; the run's own data if not given."""
    split: Literal["train", "val", "test"] = "val"
    """Which part of it."""
    val_share: float | None = None
    """Share set apart for validation where the data has no val split; as in training if not given. Data that was not
    trained on is then measured whole."""
    seed: int | None = None
    """Of that split; as in training if not given."""
    batch_size: int | None = None
    """Pictures that go through the network together; 32 if not given, and 4 where objects are found."""
    workers: int | None = None
    """Processes that read pictures; chosen by the number of cores if not given."""


@dataclass
class Options:
    data: Data = field(default_factory=Data)
    """Which pictures."""
    strict: bool = False
    """Stop at the first picture that cannot be read, or annotation that is wrong, instead of listing it."""
    save: str | None = None
    """Folder for evaluation.json and report.html."""
    device: str | None = None
    """Where to run, such as cpu or cuda; the fastest there is if not given."""
    detections: int | None = None
    """Of COCO results, how many of a picture and class count, the best: 100 if not given, as in COCO. A checkpoint
    knows its own."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("evaluate", "Measures a trained model on a data set.")
    arguments.add_argument(
        "checkpoint",
        help="best.safetensors, or the run folder that holds it; or a .json of COCO results (bbox, segmentation or "
        "keypoints) that any tool has written.",
    )
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    folder = expanded(chosen.save) if chosen.save else None
    if folder and folder.exists() and not folder.is_dir():
        raise VertebraError(f"--save={folder} is a file; name a folder.")
    judge = _results if Path(chosen.checkpoint).suffix.lower() == ".json" else _model
    found, samples, left_out, where = judge(chosen)
    _print(found, f"{chosen.checkpoint} on {where}")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        title = f"{chosen.checkpoint} on {where}"
        report.save(folder, title=title, evaluation=found, samples=samples, broken=[*left_out, *found.broken])
        print(f"look at {folder / 'report.html'}")


def _model(chosen: Namespace) -> tuple[Evaluation, list[Sample], list[str], str]:
    """What a checkpoint finds in the data, its samples, what is left out of them, and where they are from."""
    if chosen.detections is not None:
        raise VertebraError("--detections is for files of COCO results; how many a model reports, its checkpoint says.")
    in_range("data.batch_size", chosen.data.batch_size, 1)
    in_range("data.workers", chosen.data.workers, 0)
    task, about = checkpoint.load(chosen.checkpoint, device=chosen.device)
    trained = about.get("data", {})
    path = chosen.data.path or trained.get("path")
    if not path:
        raise VertebraError("the checkpoint does not say what it was trained on: give --data.path.")
    val_share = trained.get("val_share", 0.2) if chosen.data.val_share is None else chosen.data.val_share
    seed = trained.get("seed", 0) if chosen.data.seed is None else chosen.data.seed
    same = "path" in trained and expanded(path).resolve() == expanded(trained["path"]).resolve()
    catalogue = read(path, want=task.truth, seed=seed)
    whole = {"val", "test"} & catalogue.splits.keys() or chosen.data.split == "test"
    given = [name for name in ("val_share", "seed") if getattr(chosen.data, name) is not None]
    if given and str(path) != "shapes" and (whole or not (same or "val_share" in given)):
        raise VertebraError(f"--data.{given[0]} has no effect: nothing is set apart from {path} here; leave it out.")
    if not whole and (same or chosen.data.val_share is not None):
        catalogue = divided(catalogue, val_share, seed)
    split = _split(catalogue, chosen.data.split)
    left_out = _left_out(catalogue, chosen.strict)
    samples = restrict(catalogue.split(split), catalogue.classes, task.classes)
    sigmas: tuple[float, ...] = ()
    if task.truth == "keypoints":
        same_points(catalogue, task.config.points)
        assert catalogue.points is not None
        sigmas = catalogue.points.sigmas
    found = evaluate(
        task,
        samples,
        batch_size=chosen.data.batch_size or (32 if task.truth == "label" else 4),
        workers=chosen.data.workers,
        strict=chosen.strict,
        progress=True,
        threshold=about.get("metrics", {}).get("threshold"),
        sigmas=sigmas,
    )
    return found, samples, left_out, f"{path}, {split}"


def _results(chosen: Namespace) -> tuple[Evaluation, list[Sample], list[str], str]:
    """What another tool has found in the data; where the data has one split only, in that one."""
    in_range("detections", chosen.detections, 1)
    given = {"device": chosen.device, **{f"data.{key}": getattr(chosen.data, key) for key in UNUSED}}
    if words := ", ".join(f"--{key}" for key, value in given.items() if value is not None):
        raise VertebraError(f"{words}: no model is run on COCO results, and nothing is set apart; leave it out.")
    entries = results.read(chosen.checkpoint)
    if not chosen.data.path:
        raise VertebraError(f"{chosen.checkpoint} does not say what data it is of: give --data.path.")
    if chosen.detections is not None and results.kinds(entries) == ("keypoints",):
        raise VertebraError("--detections is of boxes and masks; of keypoints the best 20 of a picture count.")
    entries, catalogue = _judged(entries, chosen.data.path)
    split = _split(catalogue, chosen.data.split)
    left_out = _left_out(catalogue, chosen.strict)
    most = 100 if chosen.detections is None else chosen.detections
    found = evaluate_results(chosen.checkpoint, entries, catalogue, split, detections=most, progress=True)
    return found, catalogue.split(split), left_out, f"{chosen.data.path}, {split}"


def _judged(entries: list[dict[str, Any]], path: str) -> tuple[list[dict[str, Any]], Catalogue]:
    """The entries as far as the data can judge them, and the data: where it has no masks, the boxes alone."""
    want = results.want(entries)
    try:
        return entries, read(path, want=want, missing_ok=True)
    except VertebraError:
        if "box" not in results.kinds(entries) or want in read(path, want=None, missing_ok=True).has:
            raise
    catalogue = read(path, want="boxes", missing_ok=True)
    catalogue.notes.append(f"{path} has no {want}: the boxes alone are judged")
    return [{k: v for k, v in entry.items() if k not in ("segmentation", "keypoints")} for entry in entries], catalogue


def _split(catalogue: Catalogue, wanted: str) -> str:
    """The split that is measured: the one that is wanted, test in place of val, or the only one there is."""
    if wanted == "val" and "val" not in catalogue.splits and "test" in catalogue.splits:
        catalogue.notes.append("no val split: the test split is used as val")
        return "test"
    if wanted in catalogue.splits or len(catalogue.splits) > 1 or wanted == "test":
        return wanted
    (only,) = catalogue.splits
    catalogue.notes.append(f"no {wanted} split: all of {only} is measured")
    return only


def _left_out(catalogue: Catalogue, strict: bool) -> list[str]:
    for note in catalogue.notes:
        print(f"note: {note}")
    sentences = catalogue.left_out(strict=strict)
    for sentence in sentences:
        print(f"left out: {sentence}")
    return sentences


def _print(found: Evaluation, title: str) -> None:
    console = Console()
    print(title)
    numbers = Table("metric", box=SIMPLE_HEAD)
    numbers.add_column("value", justify="right")
    for label, value in found.numbers.items():
        numbers.add_row(label, written(value, 4))
    numbers.add_row("pictures", str(len(found.rows)))
    console.print(numbers)
    if per_class := found.metrics.get("per_class"):
        table = Table("class", box=SIMPLE_HEAD)
        for key in per_class:
            table.add_column(key.replace("_", " "), justify="right", overflow="fold")
        for name, *values in zip(found.classes, *per_class.values(), strict=True):
            table.add_row(escape(name), *map(written, values))
        console.print(table)
    for sentence in found.broken:
        print(f"left out: {sentence}")
    if found.broken:
        print(f"{len(found.broken)} pictures could not be read and were left out")
