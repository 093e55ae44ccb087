"""What evaluating a model on a data set gives."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vertebra.structures import Points, Prediction

SHOWN = 24
"""So many of the most wrong pictures are shown in a report."""


@dataclass
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, Any]
    """The task's metrics, as its Metrics.compute returns them."""
    rows: list[dict[str, Any]]
    """Per readable picture: its index among the samples, its path, and what Metrics.row says of it."""
    broken: list[str] = field(default_factory=list)
    """One sentence per picture that could not be read."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What to call each scalar of the metrics, the most telling first."""
    predictions: dict[int, Prediction] = field(default_factory=dict)
    """Of the most wrong pictures, by their index among the samples; of all, they might not fit into memory."""
    points: Points | None = None
    """The keypoints, where the model finds any."""

    @property
    def numbers(self) -> dict[str, float]:
        """The scalars that there are by their labels, the most telling first."""
        return {label: self.metrics[key] for key, label in self.labels.items() if key in self.metrics}

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The pictures answered wrongly, the most wrong first."""
        wrong = [row for row in self.rows if row["error"] > 0]
        return sorted(wrong, key=lambda row: -row["error"])[:count]


def written(value: float | None, digits: int = 3) -> str:
    """A number for a table: a count as it is, a dash for what is undefined."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


class Worst:
    """Holds on to the predictions of the most wrong pictures, and lets the others go."""

    def __init__(self, count: int = SHOWN) -> None:
        self.count = count
        self.seen = 0
        self.heap: list[tuple[float, int, int, Prediction]] = []  # (error, -order, index, prediction): mildest on top

    def add(self, row: Mapping[str, Any], prediction: Prediction) -> None:
        self.seen += 1
        if row["error"] > 0:
            heapq.heappush(self.heap, (row["error"], -self.seen, row["index"], prediction))
            if len(self.heap) > self.count:
                heapq.heappop(self.heap)

    def predictions(self) -> dict[int, Prediction]:
        """By the pictures' index among the samples: of those that `Evaluation.worst` names."""
        return {index: prediction for _, _, index, prediction in self.heap}
