"""Formats of exported models. A module of this folder that has SUFFIX is a format; nothing is registered.

A format module has
- SUFFIX: the ending of its files;
- PACKAGES: what has to be installed to write and to run it; EXTRA: the extra of Vertebra that brings them;
- PRECISIONS: number formats of its programs;
- READABLE: whether a file that comes from elsewhere is read, or else a sentence that says why not;
- convert(program, precision) -> Any: a `torch.export.ExportedProgram` as the library of the format holds it;
- quantized(model, images, program) -> Any: what `convert` returned, in int8, where PRECISIONS has it;
- save(model, text, path): writes what `convert` returned, with `text` in its metadata; all files begin with the stem of
  `path`;
- open(path) -> Opened: raises anything if the file is damaged.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from vertebra.errors import VertebraError, one_of

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""The inputs of a program to its outputs."""


@dataclass
class Opened:
    """An exported file that was read."""

    text: str | None
    """What `save` put into the metadata; None in files of other programs."""
    compile: Callable[[str], Run]
    """Makes the program that computes in a precision."""


def names() -> list[str]:
    """Every format."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        VertebraError: if there is none of that name, or a package that it needs is not installed.
    """
    one_of("format", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    if missing := [package for package in module.PACKAGES if importlib.util.find_spec(package) is None]:
        raise VertebraError(
            f"format {name} needs {missing[0]}, which is not installed: pip install 'vertebra[{module.EXTRA}]'"
        )
    return module


def of_file(path: str | Path) -> str | None:
    """The format that a file has by its ending; None if it is no exported one."""
    suffix = Path(path).suffix.lower()
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names()}
    return next((name for name, module in modules.items() if suffix == module.SUFFIX), None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what a converter says of its own steps, and its progress bars."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
