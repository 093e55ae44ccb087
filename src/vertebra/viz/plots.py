"""Figures and tables of a report, each as the HTML that holds it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vertebra.data.catalogue import Sample
from vertebra.images import read_image
from vertebra.metrics.evaluation import written
from vertebra.viz import fonts

matplotlib.use("Agg")

HEADINGS = {"f1": "F1", "support": "images"}
"""Of columns whose key is not clear enough."""
MAX_CURVES = 8
"""Of scores in one plot."""
MAX_NAMES = 100
"""With more classes, the rows and columns of a confusion matrix have no names."""
SIDE = 460
"""Longer side, in pixels, of an image with its prediction in a report."""


def pixels(sample: Sample) -> Tensor:
    """The image of a sample: [C, H, W] uint8, in colour if it is a file."""
    return read_image(sample.image, len(sample.image) if isinstance(sample.image, Tensor) else 3)


def plot(figure: Figure, description: str) -> str:
    """A figure as an <img> with the pixels inside."""
    buffer = io.BytesIO()
    fonts.apply(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return _tag(buffer.getvalue(), "png", description)


def fitted(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The image made smaller, if need be, so that its longer side has at most `side` pixels."""
    scale = min(1.0, side / max(image.size))
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def image(pixels: Image.Image, description: str, *, format: str = "png") -> str:
    """An image as an <img> with the pixels inside; `format` is `png` or `jpeg`."""
    buffer = io.BytesIO()
    pixels.save(buffer, format=format)
    return _tag(buffer.getvalue(), format, description)


def _tag(content: bytes, format: str, description: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(description)}" src="data:image/{format};base64,{data}">'


def curves(history: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> Figure:
    """Losses, scores and the learning rate by epoch.

    Args:
        history: a row per epoch; a column may be missing in some.
        names: of the metrics; the first ones are drawn.
    """
    keys = list(dict.fromkeys(key for row in history for key in row))
    losses = [key for key in keys if key.startswith("train/") or (key.startswith("val/") and "loss" in key)]
    scores = [f"val/{key}" for key in names if f"val/{key}" in keys and "loss" not in key][:MAX_CURVES]
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, chosen, title in zip(axes, (losses, scores, ["lr"]), ("losses", "scores", "learning rate"), strict=True):
        for key in chosen:
            points = [(row["epoch"], row[key]) for row in history if key in row]
            axis.plot(*zip(*points, strict=True), label=key, marker="." if len(points) < 40 else "")
        axis.set(xlabel="epoch", title=title)
        axis.grid(alpha=0.3)
        if chosen and chosen != ["lr"]:
            axis.legend(fontsize="x-small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    if scores:
        axes[1].set_ylim(-0.02, 1.02)
    return figure


def learning_rates(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], chosen: float) -> Figure:
    """The loss of a trial at each learning rate, as it is and smoothed, with the chosen rate marked."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="lightgrey", linewidth=1)
    axes.plot(rates, smooth)
    axes.axvline(chosen, color="grey", linewidth=1, label=f"{chosen:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Counts by label (rows) and prediction (columns), coloured by their share of the row."""
    count = len(names)
    side = min(12.0, max(4.0, 0.42 * count + 2))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[value / max(1, sum(row)) for value in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if count <= MAX_NAMES:
        size = min(10.0, 0.6 * 72 * side / count)  # points, in proportion to a cell
        names = [fonts.drawable(name) for name in names]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False, fontsize=size)
        axes.set_yticks(range(count), names, parse_math=False, fontsize=size)
    if count <= 20:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if value:
                    axes.text(
                        j, i, str(value), ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black"
                    )
    return figure


def per_class(table: Mapping[str, Sequence[Any]], classes: Sequence[str]) -> str:
    """A row for each class, a column for each list of the table."""
    head = "".join(f"<th>{escape(HEADINGS.get(key, key.replace('_', ' ')))}</th>" for key in table)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{written(value)}</td>' for value in values)}</tr>"
        for name, *values in zip(classes, *table.values(), strict=True)
    )
    return f"<table><tr><th>class</th>{head}</tr>{rows}</table>"
