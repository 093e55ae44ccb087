"""A run or an evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

import vertebra
from vertebra import pictures
from vertebra.data.catalogue import Sample
from vertebra.files import replacing
from vertebra.metrics.evaluation import Evaluation
from vertebra.tasks import Task
from vertebra.viz.draw import thumbnail

matplotlib.use("Agg")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dee5 }
img { max-width: 100% } table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f3f6f9 }
pre { background: #f3f6f9; padding: 1rem; overflow: auto } .numbers { display: flex; flex-wrap: wrap; gap: 1rem }
.numbers div { background: #f3f6f9; border-radius: 8px; padding: .6rem 1rem }
.numbers b { display: block; font-size: 1.4rem }
.wrong { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; width: 130px; font-size: .8rem; overflow-wrap: anywhere }
figure img { image-rendering: pixelated } .bad { color: #b3261e }
"""


def as_json(evaluation: Evaluation, classes: Sequence[str]) -> str:
    """The evaluation for other programs: metrics, classes, the answers picture by picture, and what was unreadable."""
    rows = [{**row, "truth": classes[row["truth"]], "answer": classes[row["answer"]]} for row in evaluation.rows]
    content = {"metrics": evaluation.metrics, "classes": list(classes), "answers": rows, "broken": evaluation.broken}
    return json.dumps(content, indent=1)


def save(folder: Path, *, task: Task, evaluation: Evaluation, **more: Any) -> None:
    """Writes evaluation.json and report.html into `folder`; the other arguments are those of `write`."""
    with replacing(folder / "evaluation.json") as temporary:
        temporary.write_text(as_json(evaluation, task.classes))
    write(folder / "report.html", task=task, evaluation=evaluation, **more)


def write(
    path: Path,
    *,
    title: str,
    task: Task,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    history: Sequence[Mapping[str, float]] = (),
    config: str = "",
    broken: Sequence[str] = (),
) -> None:
    """Writes the report.

    Args:
        samples: those that were evaluated, in that order; the most wrong among them are shown.
        history: a row per epoch, as a run's metrics.csv has them; without it there are no curves and timings.
        config: the run's settings as YAML.
        broken: one sentence per picture that could not be read.
    """
    classes, metrics = task.classes, evaluation.metrics
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{len(evaluation.rows)} pictures, {len(classes)} classes.</p>"]
    parts.append('<div class="numbers">')
    parts += [f"<div><b>{metrics[k]:.4f}</b>{escape(label)}</div>" for k, label in task.metrics().labels.items()]
    parts.append("</div>")
    if history:
        parts += ["<h2>Training</h2>", _image(_curves(history), "loss, accuracy and learning rate by epoch")]
    parts += ["<h2>Confusion matrix</h2>", _image(_confusion(metrics["confusion"], classes), "confusion matrix")]
    parts += ["<h2>Calibration</h2>", _image(_reliability(evaluation), "accuracy against confidence")]
    parts += ["<h2>Classes</h2>", _class_table(metrics["per_class"], classes)]
    parts += ["<h2>Most wrong</h2>", _most_wrong(evaluation, samples, task)]
    if broken:
        listed = "".join(f'<li class="bad">{escape(sentence)}</li>' for sentence in broken)
        parts += [f"<h2>Unreadable pictures ({len(broken)})</h2>", f"<ul>{listed}</ul>"]
    if history:
        parts += ["<h2>Timings</h2>", _timings(history)]
    if config:
        parts += ["<h2>Config</h2>", f"<pre>{escape(config)}</pre>"]
    parts.append(f"<p><small>vertebra {vertebra.__version__}</small></p>")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _image(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return _tag(buffer.getvalue(), description)


def _tag(png: bytes, description: str) -> str:
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _curves(history: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    for axes, keys in (
        (loss, ("train/loss", "val/loss")),
        (accuracy, ("val/top1", "val/top5", "val/f1")),
        (rate, ("lr",)),
    ):
        for key in keys:
            if key in history[0]:
                axes.plot(epochs, [row[key] for row in history], label=key, marker="." if len(epochs) < 40 else "")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    count = len(classes)
    side = min(12.0, max(4.0, 0.42 * count + 2))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[value / max(1, sum(row)) for value in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    if count <= 40:
        axes.set_xticks(range(count), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
    if count <= 20:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if value:
                    axes.text(
                        j, i, str(value), ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black"
                    )
    return figure


def _reliability(evaluation: Evaluation) -> Figure:
    """Accuracy in ten bins of confidence; a calibrated model lies on the diagonal."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in evaluation.rows:
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


def _class_table(per_class: Mapping[str, Sequence[float]], classes: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{p:.3f}</td><td>{r:.3f}</td><td>{f:.3f}</td><td>{int(n)}</td></tr>"
        for name, p, r, f, n in zip(
            classes, *(per_class[k] for k in ("precision", "recall", "f1", "support")), strict=True
        )
    )
    head = "<tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>pictures</th></tr>"
    return f"<table>{head}{rows}</table>"


def _most_wrong(evaluation: Evaluation, samples: Sequence[Sample], task: Task, count: int = 24) -> str:
    worst = evaluation.worst(count)
    if not worst:
        return "<p>No picture was answered wrongly.</p>"
    figures = []
    for row in worst:
        picture = pictures.read(samples[row["index"]].picture, task.preprocess.channels)
        buffer = io.BytesIO()
        image: Image.Image = thumbnail(picture)
        image.save(buffer, format="png")
        truth, answer = task.classes[row["truth"]], task.classes[row["answer"]]
        text = f"<b>{escape(answer)}</b> {row['probability']:.0%}<br>is {escape(truth)}"
        name = f"<br>{escape(Path(row['path']).name)}" if row["path"] else ""
        figures.append(f"<figure>{_tag(buffer.getvalue(), f'{answer}, is {truth}')}<br>{text}{name}</figure>")
    return f'<div class="wrong">{"".join(figures)}</div>'


def _timings(history: Sequence[Mapping[str, float]]) -> str:
    total = sum(row["seconds"] for row in history)
    waiting = sum(row["waiting"] * row["seconds"] for row in history) / max(1e-9, total)
    rows = [
        ("epochs", f"{len(history)}"),
        ("total", f"{total:.1f} s"),
        ("per epoch, validation included", f"{total / len(history):.1f} s"),
        ("waiting for pictures", f"{waiting:.1%} of the training steps' time"),
    ]
    return "<table>" + "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows) + "</table>"
