"""How good a trained model is on a data set, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from vertebra.data.batches import loader
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.engine import results
from vertebra.errors import VertebraError
from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.evaluation import SHOWN, Evaluation, Worst
from vertebra.tasks import Task


def evaluate(
    task: Task,
    samples: Sequence[Sample],
    *,
    batch_size: int = 64,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = False,
    threshold: float | None = None,
    sigmas: Sequence[float] = (),
) -> Evaluation:
    """Runs the task over the samples.

    Args:
        task: on the device to run on.
        strict: whether the first unreadable picture is an error instead of being listed.
        progress: whether a bar is shown.
        threshold: the score from which on the rows take an object for found, as a checkpoint knows it; 0.5 if None.
        sigmas: of the data's keypoints; those that the task knows if empty.

    Raises:
        VertebraError: if no picture can be read, or `strict` and one cannot.
    """
    batches = loader(
        samples,
        task.preprocess,
        truth=task.truth,
        classes=len(task.classes),
        batch_size=batch_size,
        workers=workers,
    )
    device = next(task.parameters()).device
    metrics = task.metrics()
    if threshold is not None and isinstance(metrics, CocoMetrics):
        metrics.threshold = threshold
    if sigmas and isinstance(metrics, CocoMetrics):
        metrics.sigmas = np.asarray(sigmas)
    broken: list[str] = []
    rows: list[dict[str, Any]] = []
    worst = Worst()
    known = {sample.target.path: i for i, sample in enumerate(samples) if sample.target.path}
    task.eval()
    with torch.inference_mode():
        for batch in track(batches, "evaluating", disable=not progress, transient=True):
            broken += batch.broken
            if strict and broken:
                raise VertebraError(f"{broken[0]} (without --strict it is left out and listed)")
            if not batch.targets:
                continue
            found = task.infer(batch.images.to(device), batch.frames)
            for prediction, target in zip(found, batch.targets, strict=True):
                index = known[target.path] if target.path else len(rows)
                rows.append({"index": index, "path": target.path, **metrics.row(prediction, target)})
                worst.add(rows[-1], prediction)
            metrics.update(found, batch.targets)
    if not rows:
        raise VertebraError(f"none of the {len(samples)} pictures can be read: {broken[0]}")
    return Evaluation(
        metrics.compute(),
        rows,
        broken,
        classes=task.classes,
        labels=metrics.labels,
        predictions=worst.predictions(),
        points=getattr(metrics, "points", None),
    )


def evaluate_results(
    path: str | Path,
    entries: Sequence[Mapping[str, Any]],
    catalogue: Catalogue,
    split: str,
    *,
    detections: int = 100,
    progress: bool = False,
) -> Evaluation:
    """Judges what another tool has found; no picture is read.

    Args:
        path: where the entries come from, for errors.
        entries: as `results.read` gives them.
        detections: how many of a picture and class count, the best.

    Raises:
        VertebraError: if an entry does not fit the data.
    """
    samples = catalogue.split(split)
    found = results.Results(path, entries, catalogue, split)
    metrics = CocoMetrics(len(catalogue.classes), results.kinds(entries), catalogue.points, most=detections)
    for index in track(range(len(samples)), "evaluating", disable=not progress, transient=True):
        metrics.update([found.prediction(index)], [found.target(index)])
    values = metrics.compute()
    metrics.threshold = values["threshold"]
    rows = [
        {"index": index, "path": sample.target.path, **row}
        for index, (sample, row) in enumerate(zip(samples, metrics.rows(), strict=True))
    ]
    evaluation = Evaluation(values, rows, classes=catalogue.classes, labels=metrics.labels, points=catalogue.points)
    shown = [row["index"] for row in evaluation.worst(SHOWN)]
    evaluation.predictions = {index: found.prediction(index) for index in shown}
    return evaluation
