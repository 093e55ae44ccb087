"""Event files in the run folder's tensorboard/."""

from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

PACKAGE = "tensorboard"


def create(folder: Path, project: str) -> Logger:
    return TensorBoardLogger(str(folder), name="", version="tensorboard", default_hp_metric=False)
