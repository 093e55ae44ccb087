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
    """Per readable picture: its index among the samples, its path, and what Metrics.row says of it."""
    broken: list[str] = field(default_factory=list)
    """One sentence per picture that could not be read."""

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The pictures answered wrongly, the most wrong first."""
        wrong = [row for row in self.rows if row["error"] > 0]
        return sorted(wrong, key=lambda row: -row["error"])[:count]
