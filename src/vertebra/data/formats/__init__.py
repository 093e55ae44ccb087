"""Dataset formats by name. A module of this folder that has PRIORITY is a format; nothing needs to be registered.

A format module has
- PRIORITY: its place in the order of recognition, lowest first; the first format that recognises a path reads it;
- FIELDS: the fields of Target that its files can hold;
- TITLE: what it is called in messages;
- recognise(path) -> bool: by names of files and folders where they suffice; the path may not exist;
- read(path, options) -> Catalogue: lists the samples, decodes no image, and raises VertebraError if the files are not
  what they should be. One annotation that is wrong is skipped, with a sentence in Catalogue.problems.

It may have
- write(catalogue, folder) -> list[str]: writes the dataset and returns what the format cannot hold; with it
  NEEDS: the fields that a dataset must have to be written. Every sample has its size and, where there are objects,
  boxes;
- GENERATED = True: the data needs no files, and the name of the format stands for its path;
- hint(path) -> str: a sentence on a folder that no format recognises but that looks nearly like this one, or nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from types import ModuleType


@dataclass(frozen=True)
class ReadOptions:
    """How a dataset is read."""

    fields: frozenset[str] | None = None
    """The fields of Target to fill; samples need no others. None for all."""
    seed: int = 0
    """Of generated data."""
    missing_ok: bool = False
    """Whether image files may be missing whose size the annotation file gives."""


@cache
def formats() -> dict[str, ModuleType]:
    """Every format by the name of its file, in the order of recognition."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    ordered = sorted((module for module in modules if hasattr(module, "PRIORITY")), key=lambda module: module.PRIORITY)
    return {module.__name__.rpartition(".")[2]: module for module in ordered}


def writable() -> dict[str, ModuleType]:
    """The formats that can be written."""
    return {name: module for name, module in formats().items() if hasattr(module, "write")}
