"""What a report says of a classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vertebra.data.catalogue import Sample
from vertebra.metrics.evaluation import SHOWN, Evaluation
from vertebra.viz import plots
from vertebra.viz.draw import thumbnail


def sections(found: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
    """Heading and HTML of each, if the metrics are a classifier's."""
    if "calibration_error" not in found.metrics:
        return
    matrix = plots.confusion(found.metrics["confusion"], found.classes)
    yield "Confusion matrix", plots.plot(matrix, "confusion matrix")
    yield "Calibration", plots.plot(_reliability(found), "accuracy against confidence")
    yield "Classes", plots.per_class(found.metrics["per_class"], found.classes)
    yield "Most wrong", _most_wrong(found, samples)


def named(row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """A row of an evaluation with the names of its classes in place of their numbers."""
    return {**row, **{key: classes[row[key]] for key in ("truth", "answer") if key in row}}


def _reliability(found: Evaluation) -> Figure:
    """Accuracy in ten bins of confidence; a calibrated model lies on the diagonal."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in found.rows:
        if math.isnan(row["probability"]):  # of a model whose weights are
            continue
        bins[min(9, int(row["probability"] * 10))].append((row["probability"], row["answer"] == row["truth"]))
    full = [entries for entries in bins if entries]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.bar(
        [sum(p for p, _ in entries) / len(entries) for entries in full],
        [sum(right for _, right in entries) / len(entries) for entries in full],
        width=0.07,
        alpha=0.8,
    )
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence", ylabel="accuracy")
    return figure


def _most_wrong(found: Evaluation, samples: Sequence[Sample]) -> str:
    worst = found.worst(SHOWN)
    if not worst:
        return "<p>No picture was answered wrongly.</p>"
    figures = []
    for row in worst:
        picture = plots.pixels(samples[row["index"]])
        truth, answer = found.classes[row["truth"]], found.classes[row["answer"]]
        text = f"<b>{escape(answer)}</b> {row['probability']:.0%}<br>is {escape(truth)}"
        name = f"<br>{escape(Path(row['path']).name)}" if row["path"] else ""
        tag = plots.image(thumbnail(picture), f"{answer}, is {truth}")
        figures.append(f"<figure>{tag}<br>{text}{name}</figure>")
    return f'<div class="wrong">{"".join(figures)}</div>'
