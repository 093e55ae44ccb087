"""Tasks and methods by name. A folder of `tasks` is a task, a file in it that has MODEL is a method."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from vertebra import backbones, options
from vertebra.errors import VertebraError, nearest, shown
from vertebra.synonyms import task_hint
from vertebra.weights import Weights

_TASKS = __name__.rpartition(".")[0]


def names() -> list[str]:
    """Every task, by the name of its folder."""
    return list(_tasks(tuple(importlib.import_module(_TASKS).__path__)))


@cache
def _tasks(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(info.name for info in pkgutil.iter_modules(path) if info.ispkg)


def _package(task: str) -> ModuleType:
    if task not in names():
        hint = task_hint(task) or nearest(task, names())
        raise VertebraError(f"task is {shown(task)}; there are {', '.join(names())}.{hint}")
    return importlib.import_module(f"{_TASKS}.{task}")


@cache
def _methods(path: tuple[str, ...], package: str) -> tuple[str, ...]:
    modules = (info.name for info in pkgutil.iter_modules(path))
    return tuple(name for name in modules if hasattr(importlib.import_module(f"{package}.{name}"), "MODEL"))


def methods(task: str) -> list[str]:
    """The methods of a task, the default one first.

    Raises:
        VertebraError: if there is no such task.
    """
    package, default = _package(task), default_method(task)
    return sorted(_methods(tuple(package.__path__), package.__name__), key=lambda name: name != default)


def default_method(task: str) -> str:
    """The method of a task that is used if none is named: DEFAULT of its package, or its only one."""
    package = _package(task)
    return getattr(package, "DEFAULT", None) or _methods(tuple(package.__path__), package.__name__)[0]


def find(task: str, method: str | None = None) -> Any:
    """The module of a method: MODEL is its class, Config its options, RECIPE the training settings in which it differs
    from the usual, SOURCES the libraries whose checkpoints it reads; it may have WEIGHTS, published ones by name.

    Raises:
        VertebraError: if there is no such task or method.
    """
    package = _package(task)
    method = method or default_method(task)
    known = methods(task)
    if method not in known:
        raise VertebraError(
            f"{task} has no method {shown(method)}; there are {', '.join(known)}.{nearest(method, known)}"
        )
    return importlib.import_module(f"{package.__name__}.{method}")


def known_methods() -> list[dict[str, Any]]:
    """Task, method, source and the libraries whose checkpoints it reads, of every method."""
    rows = []
    for task in names():
        for method in methods(task):
            module = find(task, method)
            papers = list(dict.fromkeys(re.findall(r"arXiv:\d+\.\d+", module.MODEL.__doc__ or "")))
            rows.append({"task": task, "method": method, "source": papers, "reads": sorted(module.SOURCES)})
    return rows


def published(where: object = "", backbone: str = "") -> Mapping[str, Weights]:
    """Published checkpoints by name: those of backbones (see `backbones.published`), and those of WEIGHTS of every
    method, which are of whole models."""
    known = backbones.published(where, backbone)
    if backbones.library(str(where)) or backbones.library(backbone):
        return known
    rows = dict(known)
    for task in names():
        for method in methods(task):
            cards = getattr(find(task, method), "WEIGHTS", {})
            rows |= {key: dataclasses.replace(card, task=task, method=method) for key, card in cards.items()}
    return rows


def check_options(task: str, method: str, given: Iterable[str], prefix: str = "", *, unknown_ok: bool = False) -> None:
    """Raises if an option is not of this method; names the method that has it, or the nearest option.

    Args:
        given: names of options, dotted or of groups.
        prefix: before the names in the message, such as `model.`.
        unknown_ok: whether options of no method pass, because somebody else has more to say of them.
    """
    known = options.names(find(task, method).Config)
    for name in given:
        if _has_option(known, name):
            continue
        others = [m for m in methods(task) if _has_option(options.names(find(task, m).Config), name)]
        if others:
            raise VertebraError(
                f"{prefix}{name} is an option of {', '.join(others)}, not of {method}, so {method} has no option "
                f"{name}: leave it out, or choose {prefix}method={others[0]}."
            )
        if not unknown_ok and name.partition(".")[0] not in {option.partition(".")[0] for option in known}:
            raise VertebraError(
                f"{method} has no option {shown(name)}; there are {', '.join(known)}.{nearest(name, known)}"
            )


def _has_option(known: Iterable[str], name: str) -> bool:
    """Whether `name` is among the dotted names, is one of their groups, or lies in an option that is a mapping."""
    return any(option == name or option.startswith(f"{name}.") or name.startswith(f"{option}.") for option in known)
