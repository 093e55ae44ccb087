"""`vertebra evaluate CHECKPOINT --data.path=...`: metrics and a report, of a model or of another tool's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra import export, kinds
from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console, side_by_side
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.engine import checkpoint
from vertebra.engine.evaluate import choose_split, evaluate, select
from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded
from vertebra.kinds import Kind
from vertebra.kinds.coco_results import read_results
from vertebra.metrics.evaluation import Evaluation, written
from vertebra.tasks import Task

MODEL_OPTIONS = (
    "device",
    "head",
    "model",
    "tta",
    "tile",
    "overlap",
    "refine",
    "detector",
    "boxes",
    "explain",
    "data.val_share",
    "data.seed",
    "data.batch_size",
    "data.workers",
)
"""Options that have no effect on a file of results."""


@dataclass
class EvaluationData:
    path: str = ""
    """Data in any form that `vertebra train` takes; default: the data that the model was trained on."""
    split: Literal["train", "val", "test"] = "val"
    """The split to evaluate."""
    val_share: float | None = None
    """Share set apart for validation where the data has no val split; default: as in training. Data that was not
    trained on is then evaluated whole."""
    seed: int | None = None
    """Seed of that split; default: as in training."""
    batch_size: int | None = None
    """Images per forward pass; default: 32 for classification, 4 for objects."""
    workers: int | None = None
    """Processes that read images; default: by the number of cores."""


@dataclass
class Options:
    data: EvaluationData = field(default_factory=EvaluationData)
    """Data to evaluate on"""
    head: str | None = None
    """Of a checkpoint of several heads, the one to evaluate; each on its own data without it."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model by which predictions are made of its outputs, in place of those that it was trained with,
    such as --model.nms_threshold=0.6 of a detector or --model.beam=1 of a translator."""
    strict: bool = False
    """Stop at the first unreadable image or wrong annotation, instead of skipping it."""
    save: str | None = None
    """Folder for evaluation.json and report.html."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""
    tta: bool = False
    """Test-time augmentation, as in `vertebra predict`."""
    tile: int | None = None
    """Cut images with a longer side into tiles of this side in pixels, as in `vertebra predict`."""
    overlap: float | None = None
    """Smallest share of a tile's side that neighbouring tiles have in common, up to 0.5; default: 0.2."""
    refine: str | None = None
    """Checkpoint of `vertebra train refinement`, by which the masks are refined before they are evaluated."""
    detector: str | None = None
    """Checkpoint of a detector, which finds the objects whose keypoints are predicted, as in `vertebra predict`."""
    boxes: str | None = None
    """Boxes of these objects: `annotations`, `image` (every image shows one object), or a .json of COCO results;
    default: as in training."""
    explain: bool = False
    """Show in the report what the most wrong predictions depend on, by Grad-CAM; needs --save."""
    max_detections: int | None = None
    """Of COCO results, the top-scoring detections evaluated per image and class; default: 100, as in COCO. A model has
    its own limit."""


@dataclass
class Result:
    """An evaluation, and what its report shows beside it."""

    kind: Kind
    evaluation: Evaluation
    samples: list[Sample]
    title: str
    problems: list[str]
    """One sentence per skipped annotation."""
    sections: list[tuple[str, str]] = field(default_factory=list)
    """Heading and HTML of those that the kind of prediction does not have."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("evaluate", "Computes the metrics of a trained model on a dataset.")
    arguments.add_argument(
        "checkpoint",
        help="best.safetensors, the run folder that holds it, or an exported .onnx or .xml; or a .json of COCO results "
        "(bbox, segmentation or keypoints) that any tool has written.",
    )
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    folder = expanded(options.save) if options.save else None
    if folder and folder.exists() and not folder.is_dir():
        raise VertebraError(f"--save={folder} is a file; name a folder.")
    if options.explain and not folder:
        raise VertebraError("--explain is for the report: it needs --save=FOLDER.")
    is_results = Path(options.checkpoint).suffix.lower() == ".json"
    if not is_results and options.head is None and _has_heads(options.checkpoint):
        _evaluate_heads(options, folder)
        return
    result = _evaluate_results(options) if is_results else _evaluate_model(options)
    _finish(result, folder)


def _finish(result: Result, folder: Path | None) -> None:
    """Prints a result, and writes it into a folder, if there is one."""
    _print(result)
    if folder:
        from vertebra.viz import report  # with matplotlib, which nothing else here needs

        folder.mkdir(parents=True, exist_ok=True)
        report.save(
            folder,
            title=result.title,
            kind=result.kind,
            evaluation=result.evaluation,
            samples=result.samples,
            problems=[*result.problems, *result.evaluation.unreadable],
            sections=result.sections,
        )
        print(f"look at {folder / 'report.html'}")


def _has_heads(where: str) -> bool:
    return not export.is_exported(where) and checkpoint.has_heads(where)


def _evaluate_heads(options: SimpleNamespace, folder: Path | None) -> None:
    """Evaluates all heads of a checkpoint, each on the data that it was trained on."""
    for name in ("data.path", *MODEL_OPTIONS[2:-2]):
        if attrgetter(name)(options) not in (None, False, "", {}):
            raise VertebraError(f"--{name} is for one head: name it with --head.")
    task, about = checkpoint.load_heads(options.checkpoint, device=options.device)
    for name in task.heads:
        result = _evaluated(options, task.take_out(name), about["heads"][name], None)
        _finish(replace(result, title=f"{name}: {result.title}"), folder and folder / name)


def _evaluate_model(options: SimpleNamespace) -> Result:
    if options.max_detections is not None:
        raise VertebraError("--max_detections is for files of COCO results; of a model, give --model.max_detections.")
    if options.overlap is not None and not options.tile:
        raise VertebraError("--overlap is for tiles: it needs --tile=PIXELS.")
    one_by_one = options.tta or options.tile or options.refine or options.detector
    if options.detector and options.boxes:
        raise VertebraError("--detector finds the boxes that --boxes gives: leave one of them out.")
    if one_by_one and (options.data.batch_size or options.data.workers):
        raise VertebraError(
            "with --tta, --tile, --refine or --detector, images are predicted on one by one: leave data.batch_size "
            "and data.workers out."
        )
    predict = None
    if one_by_one:
        from vertebra.predict.predictor import Predictor  # with readers of videos, which nothing else here needs

        predictor = Predictor(
            options.checkpoint,
            device=options.device,
            refine=options.refine,
            detector=options.detector,
            head=options.head,
            model=options.model,
        )
        overlap = 0.2 if options.overlap is None else options.overlap
        task, about = predictor.task, predictor.about
        predict = predictor.merged(tile=options.tile or 0, overlap=overlap, tta=options.tta)
    else:
        task, about = export.open_model(
            options.checkpoint, device=options.device, head=options.head, model=options.model
        )
    return _evaluated(options, task, about, predict)


def _evaluated(options: SimpleNamespace, task: Task, about: Mapping[str, Any], predict: Any) -> Result:
    """Evaluates a model, or what predicts in place of it, on the data of the options."""
    kind = kinds.find(task.kind)
    explainer = None
    if options.explain:
        from vertebra.predict.explain import Explainer, worst  # with matplotlib, which nothing else here needs

        if export.is_exported(options.checkpoint):
            raise VertebraError(f"{options.checkpoint} is exported, without gradients: --explain needs the checkpoint.")
        model = checkpoint.load(options.checkpoint, device=options.device, head=options.head, model=options.model)[0]
        explainer = Explainer(model)  # of its own: `task` may be folded
    selection = select(
        task,
        about,
        options.data.path or None,
        split=options.data.split,
        val_share=options.data.val_share,
        seed=options.data.seed,
        boxes=options.boxes,
        detector=bool(options.detector),
    )
    problems = _print_notes(selection.catalogue, options.strict)
    evaluation = evaluate(
        task,
        selection.samples,
        batch_size=options.data.batch_size,
        workers=options.data.workers,
        strict=options.strict,
        metric_options=kind.metric_options(about, selection.catalogue),
        predict=predict,
    )
    title = f"{options.checkpoint} on {selection.catalogue.path}, {selection.split}"
    sections = []
    if explainer is not None:
        shown = worst.html(explainer, evaluation, selection.samples)
        sections.append(("What the most wrong predictions depend on", shown))
    return Result(kind, evaluation, selection.samples, title, problems, sections)


def _evaluate_results(options: SimpleNamespace) -> Result:
    """Evaluates another tool's results on the data; where that has one split only, on that one."""
    values = {name: attrgetter(name)(options) for name in MODEL_OPTIONS}
    given = [f"--{name}" for name, value in values.items() if value is not None and value is not False and value != {}]
    if flags := ", ".join(given):
        raise VertebraError(f"{flags}: no model runs on COCO results, and no data is set apart; leave it out.")
    results = read_results(options.checkpoint)
    if not options.data.path:
        raise VertebraError(f"{options.checkpoint} does not say which data it is of: give --data.path.")
    results, catalogue = results.open(options.data.path)
    split = choose_split(catalogue, options.data.split)
    problems = _print_notes(catalogue, options.strict)
    evaluation = results.evaluate(catalogue, split, max_detections=options.max_detections)
    title = f"{options.checkpoint} on {options.data.path}, {split}"
    return Result(results.kind, evaluation, catalogue.split(split), title, problems)


def _print_notes(catalogue: Catalogue, strict: bool) -> list[str]:
    """Prints the notes and problems of the data; returns the problems."""
    for note in catalogue.notes:
        print(escaped(f"note: {note}"))
    problems = catalogue.skipped(strict=strict)
    for problem in problems:
        print(escaped(f"skipped: {problem}"))
    return problems


def _print(result: Result) -> None:
    evaluation = result.evaluation
    screen = console()
    print(escaped(result.title))
    table = Table("metric", box=SIMPLE_HEAD)
    table.add_column("value", justify="right")
    for name, value in evaluation.numbers.items():
        table.add_row(name, written(value, 4))
    table.add_row(result.kind.noun(result.samples), str(len(evaluation.rows)))
    screen.print(table)
    if per_class := evaluation.metrics.get("per_class"):
        columns = {key.replace("_", " "): list(map(written, values)) for key, values in per_class.items()}
        for table in side_by_side(evaluation.classes, columns, screen.width, "class"):
            screen.print(table)
    for sentence in evaluation.unreadable:
        print(escaped(f"skipped: {sentence}"))
    if evaluation.unreadable:
        print(f"{len(evaluation.unreadable)} images could not be read and were skipped")
