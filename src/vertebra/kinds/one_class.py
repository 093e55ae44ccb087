"""What the kinds share that predict one class: of images, or of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rich.table import Table
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import Source
from vertebra.errors import VertebraError
from vertebra.kinds.base import Kind, class_counts, inverse_frequencies, shorten, uneven
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Prediction, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OneClass(Kind):
    """One class per sample, with the probability of every class."""

    target_field = "label"
    balancing = frozenset({"class_weights"})

    # -- data

    def open(self, path: Source, *, val_share: float = 0.2, seed: int = 0) -> Catalogue:
        """As for any kind; one class alone is an error too."""
        catalogue = super().open(path, val_share=val_share, seed=seed)
        if len(catalogue.classes) < 2:
            raise VertebraError(
                f"{catalogue.path} has one class only ({catalogue.classes[0]!r}); a classifier needs two or more."
            )
        return catalogue

    def labels(self, target: Target) -> Tensor:
        return super().labels(target) if target.label is None else target.label

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """With `balance`, a weight per class that is inversely proportional to its training samples."""
        if not balance:
            return {}
        return {"class_weights": inverse_frequencies(catalogue, catalogue.counts("train", self.labels))}

    # -- predictions

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """Whether the top classes are the same."""
        return int(prediction.top(1)[0][0] == other.top(1)[0][0]), 1

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        """The top classes, with a bar as long as their probability."""
        return [
            (f"{shorten(classes[index])}  {probability:.1%}", probability) for index, probability in prediction.top(top)
        ]

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        """The top classes and probabilities of an image, or the number of video frames of each class."""
        if len(predictions) == 1:
            return "  ".join(f"{classes[i]} {p:.3f}" for i, p in predictions[0].top(top))
        counts = Counter(prediction.top(1)[0][0] for prediction in predictions)
        most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {classes[label]}" for label, count in most_first)

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`classes`: the top classes, each with `class` and `probability`."""
        ranked = [{"class": classes[i], "probability": round(p, 6)} for i, p in prediction.top(top)]
        return {"classes": ranked}

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The top class and its probability."""
        return dict(record["classes"][0])

    def rows(self, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
        """A row per class, by descending probability."""
        ranked = prediction.top(len(classes))
        return [{"class": classes[label], "label": label, "probability": value} for label, value in ranked]

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        from vertebra.viz import plots

        metrics = evaluation.metrics
        if "confusion" in metrics:
            matrix = plots.confusion(metrics["confusion"], evaluation.classes)
            yield "Confusion matrix", plots.plot(matrix, "confusion matrix")
        if "calibration_error" in metrics:
            yield "Calibration", plots.plot(_reliability(evaluation), "accuracy against confidence")
        if "per_class" in metrics:
            yield "Classes", plots.per_class(metrics["per_class"], evaluation.classes)
        if evaluation.rows and "prediction" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def named_row(self, row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        return {**row, **{key: classes[row[key]] for key in ("target", "prediction") if key in row}}

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        named = self.named_row(row, classes)
        return f"<b>{escape(named['prediction'])}</b> {row['probability']:.0%}<br>is {escape(named['target'])}"

    # -- `vertebra data`

    def inspect_sample(self, sample: Sample, size: tuple[int, int]) -> tuple[Target, list[str]]:
        return sample.target, []

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        if target.label is None or other.label is None or int(target.label) == int(other.label):
            return ""
        return f"classes {classes[int(target.label)]!r} and {classes[int(other.label)]!r}"

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """The samples of each class by split."""
        table, counts = class_counts(catalogue, self.labels, "class", "classes")
        table.add_row("all", *(str(sum(counts[split])) for split in catalogue.splits))
        return [table]

    def notes(self, catalogue: Catalogue) -> list[str]:
        note = uneven(catalogue, catalogue.counts("train", self.labels), self.items)
        return [f"{note}: consider --balance"] if note else []


def _reliability(evaluation: Evaluation) -> Figure:
    """Accuracy in ten bins of confidence; a calibrated model lies on the diagonal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in evaluation.rows:
        confidence = row["probability"]
        if not math.isnan(confidence):  # as of a model whose weights are NaN
            bins[min(9, int(confidence * 10))].append((confidence, row["prediction"] == row["target"]))
    filled = [entries for entries in bins if entries]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.bar(
        [sum(confidence for confidence, _ in entries) / len(entries) for entries in filled],
        [sum(correct for _, correct in entries) / len(entries) for entries in filled],
        width=0.07,
        alpha=0.8,
    )
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence", ylabel="accuracy")
    return figure
