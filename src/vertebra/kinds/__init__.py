"""Kinds of predictions: one file per kind. A module of this folder that has KIND is a kind; nothing is registered."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from vertebra.errors import VertebraError, one_of
from vertebra.kinds.base import Kind

if TYPE_CHECKING:
    from vertebra.data.catalogue import Catalogue
    from vertebra.tasks import Task

__all__ = ["Kind", "check_option", "find", "names", "of"]


def names() -> list[str]:
    """Every kind, by the name of its file."""
    modules = {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return [name for name, module in modules.items() if hasattr(module, "KIND")]


def find(name: str) -> Kind:
    """The kind of that name.

    Raises:
        VertebraError: if there is none.
    """
    try:
        kind: Kind = importlib.import_module(f"{__name__}.{name}").KIND
    except (ModuleNotFoundError, AttributeError):
        one_of("kind", name, names())
        raise  # a kind that exists and cannot be imported
    return kind


def of(catalogue: Catalogue) -> Kind:
    """The kind that describes a dataset best: of those whose target it has, the one with the highest priority.

    Raises:
        VertebraError: if there is none.
    """
    fitting = [kind for kind in map(find, names()) if kind.fits(catalogue)]
    if not fitting:
        raise VertebraError(f"{catalogue.path} has nothing that a task could learn.")
    return max(fitting, key=lambda kind: kind.priority)


def check_option(name: str, task: Task, flag: str = "") -> None:
    """Raises VertebraError if an option of prediction does not apply to the task; `flag` is its name on the command
    line."""
    if name in find(task.kind).options:
        return
    others = [kind.description for kind in map(find, names()) if name in kind.options]
    raise VertebraError(
        f"{flag or name} is for models that predict {' or '.join(others)}; this one is for {task.task_name}."
    )
