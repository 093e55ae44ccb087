"""Classification: one answer for the whole picture."""

from vertebra.tasks.classification.task import Classification, Config

TASK = Classification
RECIPE: dict[str, object] = {}

__all__ = ["RECIPE", "TASK", "Classification", "Config"]
