"""The certificate of an exported file: how its predictions differ from those of the model that it comes from."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra import kinds
from vertebra.data.catalogue import Sample
from vertebra.data.formats import shapes
from vertebra.data.geometry import read_example
from vertebra.engine.evaluate import evaluate, select
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, frame_of, pad_batch, prepare
from vertebra.structures import Prediction, Region
from vertebra.tasks import Task

NUM_IMAGES = {"fp32": 64, "bf16": 64, "fp16": 64, "int8": 300}
"""Images of a dataset that are compared, by precision. For int8 a drop of one point must be several images."""
NUM_DRAWN = 8
"""Built-in images, where there is no data set."""
DRAWN_SIDE = 256
"""Pixels."""
AGREEMENT = {"fp32": 0.99, "bf16": 0.95, "fp16": 0.95, "int8": 0.9}
"""Least share of predictions that agree, by precision."""
DIFFERENCE = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.1, "int8": 0.5}
"""Largest difference of a raw output, as a share of its largest value, where there are no predictions to compare."""


@dataclass(frozen=True)
class Certificate:
    """The comparison of an exported file with its model."""

    images: int
    """Images that both predicted on."""
    source: str
    """Where they are from."""
    differences: tuple[float, ...]
    """Largest absolute difference of each raw output, of two images of different size."""
    agreement: float
    """Share of the predictions that agree, in 0..1: of classes, objects or pixels, as the kind of prediction has it."""
    metrics: Mapping[str, tuple[float, float]]
    """Metrics of the model and of the exported file by display name; empty where the images have no ground truth."""
    calibrated: int = 0
    """Images on which the ranges of values of an int8 program were measured."""
    unreadable: tuple[str, ...] = ()
    """What is wrong with those that were left out, because they cannot be read."""
    predictions: int = 0
    """Those of both that were compared: images, objects or pixels."""
    relative: tuple[float, ...] = ()
    """`differences` as shares of the largest absolute value of the model's output."""

    def problem(self, min_agreement: float, max_drop: float, max_difference: float) -> str:
        """Why the exported file is no good, as a part of a sentence; empty if it is good.

        Raw outputs are judged, by `max_difference`, only where there are no predictions.
        """
        if not self.predictions and not all(difference <= max_difference for difference in self.relative):
            return (
                f"neither finds anything in the images ({self.source}), and its raw outputs differ by up to "
                f"{max(self.relative):.2%} of their values, by more than {max_difference:.2%}"
            )
        if not self.agreement >= min_agreement:
            return (
                f"{self.agreement:.2%} of its predictions agree with those of the model, and {min_agreement:.2%} must"
            )
        for name, (before, after) in list(self.metrics.items())[:1]:
            if not before - after <= max_drop:
                return f"{name} drops from {before:.4f} to {after:.4f}, by more than {max_drop:g}"
        return ""


def least(compared: Certificate, precision: str, chosen: float | None) -> float:
    """The least share of predictions that must agree: the chosen one, else that of the precision. In int8 none has to
    where there is ground truth: scores and boxes of single objects change, and the metrics tell whether it matters."""
    if chosen is not None:
        return chosen
    return 0.0 if precision == "int8" and compared.metrics else AGREEMENT[precision]


@dataclass
class Examples:
    """Images to compare on, with targets if they are a dataset's."""

    source: str
    samples: Sequence[Sample]
    metric_options: Mapping[str, Any]
    drawn: Sequence[Tensor] = ()
    """[C, H, W] uint8 each, where there are no samples."""


def examples(
    task: Task, about: Mapping[str, Any], data: str | None, split: str = "val", count: int = NUM_IMAGES["fp32"]
) -> Examples:
    """The images to compare on: `count` of `data`; else of those that the model was validated on, if they are still
    there; else drawn ones.

    Raises:
        VertebraError: if `data` cannot be read or does not fit the model.
    """
    path = data or about.get("data", {}).get("path")
    try:
        if path is not None:
            selection = select(task, about, path, split=split)
            step = max(1, len(selection.samples) // count)  # in data sets, the images of a class follow each other
            options = kinds.find(task.kind).metric_options(about, selection.catalogue)
            return Examples(str(path), selection.samples[::step][:count], options)
    except VertebraError:
        if data is not None:
            raise
    channels = task.preprocess.channels
    drawn = []
    for i in range(NUM_DRAWN):
        image, _ = shapes.draw(0, i, DRAWN_SIDE, (1, 3))  # [3, H, W]
        drawn.append(torch.cat([image] * -(-channels // 3))[:channels])
    return Examples("drawn shapes", [], {}, drawn)


def compare(task: Task, exported: Task, images: Examples) -> Certificate:
    """Runs both on the images.

    Raises:
        VertebraError: if none of them can be read.
    """
    kind = kinds.find(task.kind)
    counts: list[tuple[int, int]] = []

    def both(image: Tensor, region: Region | None = None) -> Prediction:
        """The model's; no prediction is kept, because label maps are large."""
        ours, theirs = (_predicted(model, image, region) for model in (task, exported))
        counts.append(kind.agreement(ours, theirs))
        return ours

    metrics, other_metrics = _metrics(task, images, both), _metrics(exported, images, partial(_predicted, exported))
    for image in images.drawn:
        both(image)
    total = sum(count for _, count in counts)
    differences, relative = _differences(task, exported, images)
    return Certificate(
        images=len(counts),
        source=images.source,
        differences=differences,
        relative=relative,
        predictions=total,
        agreement=sum(same for same, _ in counts) / total if total else 1.0,
        metrics={name: (value, other_metrics[name]) for name, value in metrics.items() if name in other_metrics},
    )


def _predicted(task: Task, image: Tensor, region: Region | None = None) -> Prediction:
    batch, frames = prepared(task, image, region)
    (prediction,) = task.evaluated(task.infer, batch, frames)
    return prediction


def _metrics(task: Task, images: Examples, predict: Callable[..., Prediction]) -> dict[str, float]:
    if not images.samples:
        return {}
    result = evaluate(task, images.samples, metric_options=images.metric_options, predict=predict)
    return {name: float(value) for name, value in result.numbers.items()}


def prepared(task: Task, image: Tensor, region: Region | None) -> tuple[Tensor, list[Any]]:
    """An image [C, H, W] uint8, or a region of it, as the input of a task, and how it lies in that."""
    frame = frame_of((image.shape[1], image.shape[2]), task.preprocess, region)
    return pad_batch([prepare(image, task.preprocess, frame.region)], task.preprocess), [frame]


def _differences(task: Task, exported: Task, images: Examples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the raw outputs for an image and for a part of it, which may be another input size; then as shares of the
    largest absolute values."""
    image, region = _first(task, images)
    largest, relative = [0.0], [0.0]
    for pixels in (image, image[:, : max(1, image.shape[1] // 2)]):
        batch, frames = prepared(task, pixels, region)
        if task.takes_batches:  # of several, too
            batch, frames = torch.cat((batch, batch.flip(-1))), frames * 2
        sizes = [frame.resized for frame in frames]
        one, other = (model.evaluated(model.outputs, batch, sizes) for model in (task, exported))
        if [x.shape for x in one] != [y.shape for y in other]:
            raise VertebraError("the exported program returns tensors of other shapes than the model.")
        apart = [float((x.float() - y.float()).abs().max()) if x.numel() else 0.0 for x, y in zip(one, other)]
        values = [float(x.float().abs().max()) if x.numel() else 0.0 for x in one]
        shares = [0.0 if a == 0 else a / max(value, 1e-6) for a, value in zip(apart, values, strict=True)]
        largest = [_larger(pair) for pair in itertools.zip_longest(largest, apart, fillvalue=0.0)]
        relative = [_larger(pair) for pair in itertools.zip_longest(relative, shares, fillvalue=0.0)]
    return tuple(largest), tuple(relative)


def _larger(pair: tuple[float, float]) -> float:
    """NaN if one is."""
    return float(np.maximum(*pair))


def _first(task: Task, images: Examples) -> tuple[Tensor, Region | None]:
    """The first image that can be read."""
    for sample in images.samples:
        with contextlib.suppress(UnreadableImage):
            example = read_example(sample, task.preprocess.channels, kinds.find(task.kind).fields)
            return example.image, example.region
    return images.drawn[0], None
