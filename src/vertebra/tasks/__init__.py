"""Tasks by name. A folder here that has TASK is a task; nothing needs to be registered."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertebra import backbones
from vertebra.errors import VertebraError, check_fields, nearest
from vertebra.structures import Preprocess
from vertebra.tasks.base import Metrics, Task
from vertebra.tasks.foreign import Detector, recognised
from vertebra.tasks.region import RegionTask
from vertebra.weights import description, read

__all__ = ["Metrics", "Task", "create", "find", "names"]


def names() -> list[str]:
    """Every task's word on the command line."""
    return [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]


def find(name: str) -> Any:
    """The module of task `name`: TASK is its class, METHODS others by their `method` in Config, which is its options;
    RECIPE are the settings in which its training differs from the usual. VertebraError if there is none."""
    if name not in names():
        raise VertebraError(f"no task is called {name!r}; there are {', '.join(names())}.{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def preprocess_of(name: str, backbone: str, where: str | Path | None) -> Preprocess:
    """What task `name` does to pictures before `backbone`, with the mean and deviation that checkpoint `where` was
    trained with, as far as they are known."""
    known: Preprocess = find(name).TASK.prepares(_known(backbone, where), backbone)
    return known


def _known(backbone: str, where: str | Path | None) -> Preprocess:
    """The preprocessing of a checkpoint; else the usual one at the backbone's own input size."""
    usual = Preprocess(size=backbones.family(backbone).VARIANTS[backbones.public_name(backbone)].image_size)
    if where is None:
        return usual
    if card := backbones.family(backbone).WEIGHTS.get(str(where)):
        return card.preprocess
    about = description(where).get("vertebra") if Path(where).exists() else None
    return Preprocess.from_dict(json.loads(about)["preprocess"]) if about else usual


def create(
    name: str,
    *,
    classes: int | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> Task:
    """A task's model; `options` are fields of its Config. See `vertebra.create`.

    Of another library's detector, the file says which options it is built with, where they are left at their defaults.
    """
    module = find(name)
    check_fields(name, options, {field.name for field in dataclasses.fields(module.Config)})
    foreign: Detector | None = None
    if weights is not None and issubclass(module.TASK, RegionTask):
        foreign = _foreign(module.Config(**options).backbone, weights)
    if foreign is not None:
        usual = {field.name: field.default for field in dataclasses.fields(module.Config)}
        chosen = {key: value for key, value in options.items() if value != usual[key]}
        options |= foreign.options(name) | chosen
        classes = foreign.classes if classes is None else classes
    classes = 1000 if classes is None else classes
    labels = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    if not labels:
        raise VertebraError("classes is empty; give their number or their names.")
    config = module.Config(**options)
    if preprocess is None:
        preprocess = preprocess_of(name, config.backbone, weights)
        if foreign is not None:
            preprocess = dataclasses.replace(preprocess, antialias=foreign.antialias)
    method = getattr(module, "METHODS", {}).get(getattr(config, "method", ""), module.TASK)
    task: Task = method(config, labels, preprocess)
    if weights is not None:
        task.report = task.load(weights, partial=True)
    return task


def _foreign(backbone: str, where: str | Path) -> Detector | None:
    """The detector of another library that a file holds, if it does."""
    if str(where) in backbones.family(backbone).WEIGHTS or "vertebra" in description(where):
        return None  # told without reading a tensor
    return recognised(read(where)[0])
