"""Where the metrics of a run are logged: a file per logger, which has its name, and in it `create` and `PACKAGE`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vertebra.errors import VertebraError, one_of

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

PROJECT = "vertebra"
"""The project of all runs, where a logger has projects; a run is named as its folder."""


def names() -> list[str]:
    """Every logger."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find(name: str) -> ModuleType:
    """The module of a logger.

    Raises:
        VertebraError: if there is none of that name, or the package that it needs is not installed.
    """
    one_of("logger", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    if module.PACKAGE and importlib.util.find_spec(module.PACKAGE) is None:
        raise VertebraError(f"logger {name} needs a package that is not installed: pip install {module.PACKAGE}")
    return module


def create(chosen: Sequence[str], folder: Path) -> list[Logger]:
    """Lightning's loggers of these names for the run in `folder`."""
    return [find(name).create(folder, PROJECT) for name in chosen]
