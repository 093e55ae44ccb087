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
from vertebra.tasks import foreign
from vertebra.tasks.base import Metrics, Task
from vertebra.tasks.region import RegionConfig
from vertebra.weights import description

__all__ = ["Metrics", "Task", "create", "find", "names"]


def names() -> list[str]:
    """Every task's word on the command line."""
    return [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]


def find(name: str) -> Any:
    """The module of task `name`: TASK is its class, Config its options; VertebraError if there is none."""
    if name not in names():
        raise VertebraError(f"no task is called {name!r}; there are {', '.join(names())}.{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def preprocess_of(backbone: str, where: str | Path | None) -> Preprocess:
    """The preprocessing that a checkpoint was trained with, as far as it is known; else the usual one at the backbone's
    own input size."""
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

    Of another library's detector, the file says which options it is built with, where `options` do not.
    """
    module = find(name)
    check_fields(name, options, {field.name for field in dataclasses.fields(module.Config)})
    known: Preprocess | None = None
    config = module.Config(**options)
    published = str(weights) in backbones.family(config.backbone).WEIGHTS
    if weights is not None and not published and isinstance(config, RegionConfig):
        found, count, known = foreign.asked(weights, name)
        config = dataclasses.replace(config, **{k: v for k, v in found.items() if k not in options})
        classes = count if classes is None else classes
    classes = 1000 if classes is None else classes
    labels = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    if not labels:
        raise VertebraError("classes is empty; give their number or their names.")
    task: Task = module.TASK(config, labels, preprocess or known or preprocess_of(config.backbone, weights))
    if weights is not None:
        task.report = task.load(weights, partial=True)
    return task
