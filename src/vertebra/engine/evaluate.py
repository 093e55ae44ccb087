"""How good a trained model is on a data set, and where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from vertebra import kinds, options
from vertebra.data.catalogue import Catalogue, Sample, map_classes
from vertebra.data.formats import formats
from vertebra.data.inputs import Inputs
from vertebra.data.loader import loader
from vertebra.data.reading import Source, with_val_split
from vertebra.engine import checkpoint
from vertebra.engine.settings import check_workers
from vertebra.errors import VertebraError, in_range
from vertebra.files import expanded
from vertebra.images import UnreadableImage
from vertebra.kinds import Kind
from vertebra.metrics.evaluation import Evaluation, Worst
from vertebra.progress import busy, track
from vertebra.structures import Prediction, Region, Target
from vertebra.tasks import Task


@dataclass
class Selection:
    """The data that a model is evaluated on."""

    catalogue: Catalogue
    """The whole data set; its notes say how the split was chosen."""
    split: str
    """The split that is evaluated."""
    samples: list[Sample]
    """The samples of that split, with labels in the order of the model's classes."""


def select(
    task: Task,
    about: Mapping[str, Any],
    data: Source | None = None,
    *,
    split: str = "val",
    val_share: float | None = None,
    seed: int | None = None,
    boxes: str | None = None,
    detector: bool = False,
) -> Selection:
    """The data to evaluate a model on.

    Args:
        about: the description in the model's checkpoint; its `data` says what it was trained on.
        data: a path, a Dataset of (image, Target), or a mapping of split names to Datasets; the data that the model was
            trained on if None.
        split: `train`, `val` or `test`; `test` stands in for a missing `val`, and the only split for any of the two.
        val_share: share set apart for validation where the data has no val split; as in training if None. Data that
            was not trained on is then evaluated whole.
        seed: of that split; as in training if None.
        boxes: of the objects whose keypoints are predicted, as `data.boxes` in training; as then if None.
        detector: whether a detector finds the objects: samples are then whole images.

    Raises:
        VertebraError: if the data is missing, does not fit the model, or `val_share` or `seed` has no effect.
    """
    training = about.get("data", {})
    if data is None:
        data = training.get("path")
    if data is None:
        raise VertebraError("the checkpoint does not say what it was trained on: give --data.path.")
    kind = kinds.find(task.kind)
    if boxes is not None:
        kinds.check_option("boxes", task)
    same = isinstance(data, str | Path) and "path" in training and _same_path(data, training["path"])
    chosen = [name for name, value in (("val_share", val_share), ("seed", seed)) if value is not None]
    share = training.get("val_share", 0.2) if val_share is None else val_share
    seed = training.get("seed", 0) if seed is None else seed
    catalogue = kind.read(data, seed=seed)
    complete = bool({"val", "test"} & catalogue.splits.keys()) or split == "test"
    generated = isinstance(data, str) and getattr(formats().get(data), "GENERATED", False)
    if chosen and not generated and (complete or not (same or "val_share" in chosen)):
        raise VertebraError(
            f"--data.{chosen[0]} has no effect: no part of {catalogue.path} is set apart here; leave it out."
        )
    if not complete and (same or "val_share" in chosen):
        catalogue = with_val_split(catalogue, share, seed)
    split = choose_split(catalogue, split)
    kind.check_compatible(catalogue, task)
    device = task.device
    if detector:
        samples = catalogue.split(split)
    else:
        samples = kind.samples(
            catalogue,
            split,
            task,
            seed=seed,
            data=_data_options(kind, training, boxes, split if same else ""),
            load=lambda path: checkpoint.load(path, device=device)[0],
        )
    return Selection(catalogue, split, map_classes(samples, catalogue.classes, task.classes))


def _data_options(kind: Kind, training: Mapping[str, Any], boxes: str | None, split: str) -> Any:
    """The further options of the kind's data: as in training where it was on a `split` of the same data, but for
    `boxes`."""
    if kind.data is None:
        return None
    if boxes is not None:
        return options.build(kind.data, {"boxes": boxes})
    names = {field.name for field in fields(kind.data)}
    as_trained = options.build(kind.data, {name: value for name, value in training.items() if name in names})
    if hasattr(as_trained, "elsewhere") and split in ("", "train"):
        return as_trained.elsewhere()
    return as_trained if split else kind.data()


def choose_split(catalogue: Catalogue, split: str) -> str:
    """The split to evaluate: `split`, test in place of val, or the only one; a note says so if it is another."""
    if split == "val" and "val" not in catalogue.splits and "test" in catalogue.splits:
        catalogue.notes.append("no val split: the test split is used as val")
        return "test"
    if split in catalogue.splits or len(catalogue.splits) > 1 or split == "test":
        return split
    (only,) = catalogue.splits
    catalogue.notes.append(f"no {split} split: all of {only} is evaluated")
    return only


def evaluate(
    task: Task,
    samples: Sequence[Sample],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    metric_options: Mapping[str, Any] | None = None,
    predict: Callable[[Tensor, Region | None], Prediction] | None = None,
) -> Evaluation:
    """Runs the task over the samples, in eval mode; the task is left in the mode that it was in.

    Args:
        task: on the device to run on.
        batch_size: images per forward pass; the default of the task's kind if None.
        strict: whether the first unreadable image is an error instead of being listed.
        metric_options: arguments of `task.metrics`, as `Kind.metric_options` gives them.
        predict: predicts on an image [C, H, W] uint8, or a region of it, in place of the task, such as on views of it
            that are merged.

    Raises:
        VertebraError: if no image can be read, or `strict` and one cannot.
    """
    in_range("data.batch_size", batch_size, 1)
    check_workers(workers)
    kind = kinds.find(task.kind)
    metrics = task.metrics(**metric_options or {})
    unreadable: list[str] = []
    rows: list[dict[str, Any]] = []
    worst = Worst()
    if predict is None:
        outcomes = _in_batches(task, samples, batch_size or kind.eval_batch_size, workers)
    else:
        outcomes = _one_by_one(predict, samples, kind.inputs(task.preprocess))
    for outcome in track(outcomes, "evaluating", len(samples), size=lambda o: len(o.indices) + len(o.unreadable)):
        unreadable += outcome.unreadable
        if strict and unreadable:
            raise VertebraError(f"{unreadable[0]} (without --strict it is skipped and listed)")
        for index, prediction, target in zip(outcome.indices, outcome.predictions, outcome.targets, strict=True):
            rows.append({"index": index, "path": target.path, **metrics.row(prediction, target)})
            worst.add(rows[-1], prediction)
        if outcome.indices:
            metrics.update(outcome.predictions, outcome.targets)
    if not rows:
        raise VertebraError(f"none of the {len(samples)} {kind.items} can be read: {unreadable[0]}")
    rows.sort(key=lambda row: row["index"])  # batches hold images of equal shape
    with busy("computing the metrics"):
        values = metrics.compute()
    return Evaluation(
        values,
        rows,
        unreadable,
        classes=task.classes,
        names=metrics.names,
        predictions=worst.predictions(),
        keypoints=task.keypoints,
    )


@dataclass
class _Outcome:
    """Predictions and targets of some of the samples, and a sentence for each that could not be read."""

    indices: Sequence[int] = ()
    predictions: Sequence[Prediction] = ()
    targets: Sequence[Target] = ()
    unreadable: Sequence[str] = ()


def _in_batches(task: Task, samples: Sequence[Sample], batch_size: int, workers: int | None) -> Iterator[_Outcome]:
    kind, num_classes = kinds.find(task.kind), len(task.classes)
    batches = loader(samples, task.preprocess, kind, num_classes=num_classes, batch_size=batch_size, workers=workers)
    for batch in batches:
        predictions = task.evaluated(task.infer, batch.images, batch.frames) if batch.targets else ()
        yield _Outcome(batch.indices, predictions, batch.targets, batch.unreadable)


def _one_by_one(
    predict: Callable[[Tensor, Region | None], Prediction], samples: Sequence[Sample], inputs: Inputs
) -> Iterator[_Outcome]:
    for index, sample in enumerate(samples):
        try:
            example = inputs.read(sample)
        except UnreadableImage as error:
            yield _Outcome(unreadable=[str(error)])
        else:
            yield _Outcome([index], [predict(example.image, example.region)], [example.target])


def _same_path(first: str | Path, second: str | Path) -> bool:
    return expanded(first).resolve() == expanded(second).resolve()
