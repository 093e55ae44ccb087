"""Tables in the run folder's csv/: metrics by step, and the settings."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger

PACKAGE = ""


def create(folder: Path, project: str) -> Logger:
    number = 1
    while (folder / _name(number)).exists():  # of a run that is resumed: Lightning would overwrite it
        number += 1
    return CSVLogger(str(folder), name="", version=_name(number))


def _name(number: int) -> str:
    return "csv" if number == 1 else f"csv-{number}"
