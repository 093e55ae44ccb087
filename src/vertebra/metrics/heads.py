"""The metrics of several tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

MEAN = "mean"
"""Name of the mean over the heads of their first metric."""


class HeadMetrics(nn.Module):
    """The metrics of each head, whose names begin with that of the head, and the mean of those that select a model.

    Args:
        heads: `tasks.Metrics` by the name of the head; they are updated one by one.
        monitors: the metric of each head that the mean is of, which is 0 where it is undefined.
    """

    def __init__(self, heads: Mapping[str, Any], monitors: Mapping[str, str]) -> None:
        super().__init__()
        self.heads, self.monitors = dict(heads), dict(monitors)
        for i, metrics in enumerate(heads.values()):
            if isinstance(metrics, nn.Module):  # goes to the device with the model
                self.add_module(str(i), metrics)

    @property
    def names(self) -> dict[str, str]:
        """Display names: the mean, then what it is of, then all others."""
        first = {f"{name}/{key}": f"{name} {self.heads[name].names[key]}" for name, key in self.monitors.items()}
        others = {f"{name}/{key}": f"{name} {text}" for name, m in self.heads.items() for key, text in m.names.items()}
        return {MEAN: "mean of the heads", **first, **others}

    def compute(self) -> dict[str, Any]:
        values = {name: metrics.compute() for name, metrics in self.heads.items()}
        scores = [values[name].get(key, 0.0) for name, key in self.monitors.items()]
        flat = {f"{name}/{key}": value for name, part in values.items() for key, value in part.items()}
        return {MEAN: sum(scores) / len(scores), **flat}

    def reset(self) -> None:
        for metrics in self.heads.values():
            metrics.reset()
