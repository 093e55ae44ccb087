"""Classification: one answer for the whole picture."""

from vertebra.tasks.classification.task import Classification, Config

TASK = Classification

__all__ = ["TASK", "Classification", "Config"]
