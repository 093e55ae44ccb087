"""The result of evaluating a model on a data set."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vertebra.structures import KeypointSchema, Prediction

SHOWN = 24
"""Images with the largest errors that a report shows."""


@dataclass(repr=False)
class Evaluation:
    """The result of `evaluate`."""

    metrics: dict[str, Any]
    """The task's metrics, as its Metrics.compute returns them."""
    rows: list[dict[str, Any]]
    """Per readable image: its index among the samples, its path, and its Metrics.row."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence per image that could not be read."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Display name of each scalar of the metrics, the most important first."""
    predictions: dict[int, Prediction] = field(default_factory=dict)
    """Of the images with the largest errors, by index among the samples; those of all may not fit into memory."""
    keypoints: KeypointSchema | None = None
    """The keypoints, if the model predicts any."""

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {written(value, 4)}" for name, value in list(self.numbers.items())[:5])
        return f"Evaluation({len(self.rows)} images: {numbers})"

    @property
    def numbers(self) -> dict[str, float]:
        """The scalars that are defined by their display names, the most important first."""
        return {name: self.metrics[key] for key, name in self.names.items() if key in self.metrics}

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The rows of the images with the largest errors, largest first; images without an error are left out."""
        wrong = [row for row in self.rows if row["error"] > 0]
        return sorted(wrong, key=lambda row: -row["error"])[:count]


def written(value: float | None, digits: int = 3) -> str:
    """A number as a table shows it: counts in full, a dash where it is undefined."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


class Worst:
    """Keeps the predictions of the images with the largest errors."""

    def __init__(self, count: int = SHOWN) -> None:
        self.count = count
        self.num_added = 0
        self.heap: list[tuple[float, int, int, Prediction]] = []  # (error, -order, index, prediction), smallest first

    def add(self, row: Mapping[str, Any], prediction: Prediction) -> None:
        self.num_added += 1
        if row["error"] > 0:
            heapq.heappush(self.heap, (row["error"], -self.num_added, row["index"], prediction))
            if len(self.heap) > self.count:
                heapq.heappop(self.heap)

    def predictions(self) -> dict[int, Prediction]:
        """Of the images that `Evaluation.worst` returns, by their index among the samples."""
        return {index: prediction for _, _, index, prediction in self.heap}
