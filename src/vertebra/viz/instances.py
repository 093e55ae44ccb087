"""What a report says of a model that finds objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vertebra.data.catalogue import Sample
from vertebra.errors import VertebraError
from vertebra.metrics.evaluation import SHOWN, Evaluation
from vertebra.structures import Masks, Prediction, Target
from vertebra.viz import draw, plots

SIDE = 460
"""The longer side, in pixels, of each picture that is shown."""
FEW = 10
"""Up to so many classes, the curve of each has its own colour."""


def sections(found: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
    """Heading and HTML of each, if the metrics are those of objects."""
    metrics = found.metrics
    if "pr" not in metrics:
        return
    curves = _precision_recall(metrics["pr"], found.classes)
    yield "Precision and recall", plots.plot(curves, "precision at each recall")
    note = (
        f"<p>Objects found, missed and made up when every detection counts whose score is {metrics['threshold']:.3f} "
        "at least: the threshold with the best F1 on these pictures.</p>"
    )
    yield "Score threshold", note + plots.plot(_by_score(metrics), "precision, recall and F1 by score threshold")
    matrix = plots.confusion(metrics["confusion"], [*found.classes, "background"])
    yield "Confusion matrix", plots.plot(matrix, "confusion matrix")
    yield "Classes", plots.per_class(metrics["per_class"], found.classes)
    yield "Most wrong", _most_wrong(found, samples)


def _precision_recall(kinds: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    figure = Figure(figsize=(max(4.6, 3.7 * len(kinds)), 3.6), layout="constrained")
    recalls = [i / 100 for i in range(101)]
    for axes, (kind, curves) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        each = curves["50"]["classes"]
        for name, values in zip(classes, each, strict=True):
            if values is None or len(classes) == 1:
                continue
            if len(classes) <= FEW:
                axes.plot(recalls, values, linewidth=1, alpha=0.8, label=name.replace("$", r"\$"))
            else:
                axes.plot(recalls, values, linewidth=1, alpha=0.2, color="tab:blue")
        for iou, style in (("50", "-"), ("75", "--")):
            if curves[iou]["mean"] is not None:
                label = f"all, {'OKS' if kind == 'keypoints' else 'IoU'} 0.{iou}"
                axes.plot(recalls, curves[iou]["mean"], "k", linestyle=style, linewidth=2, label=label)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.04), xlabel="recall", ylabel="precision", title=kind)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", loc="lower left")
    return figure


def _by_score(metrics: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    curve = metrics["curve"]
    for name in ("precision", "recall", "f1"):
        points = [(s, v) for s, v in zip(curve["score"], curve[name], strict=True) if v is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=plots.HEADINGS.get(name, name))
    threshold = metrics["threshold"]
    axes.axvline(threshold, color="grey", linewidth=1, linestyle=":", label=f"best threshold, {threshold:.3f}")
    axes.set(xlim=(curve["score"][0], curve["score"][-1]), ylim=(0, 1.04), xlabel="score threshold")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _most_wrong(found: Evaluation, samples: Sequence[Sample]) -> str:
    """The pictures with the least F1: truth on the left, what was found on the right."""
    worst = found.worst(SHOWN)
    if not worst:
        return "<p>No picture was answered wrongly.</p>"
    figures = []
    for row in worst:
        said = [f"{row['found']} of {row['truths']} found"] + [f"{row['false']} false"] * bool(row["false"])
        text = f"<b>{', '.join(said)}</b>" + (f" {escape(Path(row['path']).name)}" if row["path"] else "")
        try:
            images = _side_by_side(found, samples[row["index"]], row)
        except VertebraError as error:  # results can be judged without their pictures
            images = f'<span class="bad">{escape(str(error))}</span>'
        figures.append(f'<figure class="pair">{images}<br>{text}</figure>')
    return (
        "<p>Those with the least F1 first: what is true on the left, what was found on the right.</p>"
        f'<div class="wrong">{"".join(figures)}</div>'
    )


def _side_by_side(found: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
    picture = plots.pixels(sample)
    truth = as_prediction(sample.truth((picture.shape[1], picture.shape[2]), pieces=True))
    images = []
    for prediction, what in ((truth, "what is true"), (found.predictions.get(row["index"]), "what was found")):
        if prediction is not None:
            drawn = draw.instances(
                picture, _boxed(prediction), found.classes, points=found.points, threshold=row["threshold"]
            )
            images.append(plots.image(_fitted(drawn), f"{what}: {Path(row['path']).name}", format="jpeg"))
    return "".join(images)


def _fitted(image: Image.Image) -> Image.Image:
    scale = min(1.0, SIDE / max(image.size))
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def as_prediction(target: Target) -> Prediction:
    """What is true, in the form that can be drawn; without scores."""
    masks = target.masks
    if isinstance(masks, Tensor):
        size = (masks.shape[1], masks.shape[2])
        masks = Masks(size, [(0, 0)] * len(masks), list(masks))
    return Prediction(boxes=target.boxes, labels=target.labels, masks=masks, keypoints=target.keypoints)


def _boxed(prediction: Prediction) -> Prediction:
    """With boxes around the masks or the keypoints, if it has none of its own."""
    if prediction.boxes is not None:
        return prediction
    boxes: list[Tensor] = []
    if prediction.masks is not None:
        for (x, y), crop in zip(prediction.masks.corners, prediction.masks.crops, strict=True):
            boxes.append(torch.tensor([x, y, x + crop.shape[1], y + crop.shape[0]], dtype=torch.float32))
    elif prediction.keypoints is not None:
        for points in prediction.keypoints:
            seen = points[points[:, 2] > 0] if (points[:, 2] > 0).any() else points
            boxes.append(torch.cat([seen[:, :2].amin(0), seen[:, :2].amax(0)]))
    return replace(prediction, boxes=torch.stack(boxes) if boxes else torch.zeros(0, 4))
