"""What evaluating a model on a data set gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, Any]
    """The task's metrics, as its Metrics.compute returns them."""
    rows: list[dict[str, Any]]
    """Per readable picture: its index among the samples, path, truth, answer, and the probability of both."""
    broken: list[str] = field(default_factory=list)
    """One sentence per picture that could not be read."""

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The wrong answers, the most confident first."""
        wrong = [row for row in self.rows if row["answer"] != row["truth"]]
        return sorted(wrong, key=lambda row: row["truth_probability"])[:count]
