"""Tasks by name. A folder here that has TASK is a task; nothing needs to be registered."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vertebra import backbones
from vertebra.errors import VertebraError, check_fields, nearest
from vertebra.structures import Points, Preprocess
from vertebra.tasks.base import Metrics, Task, as_tuples
from vertebra.tasks.foreign import Detector, recognised
from vertebra.tasks.region import RegionTask
from vertebra.weights import description, known, read

__all__ = ["Metrics", "Task", "create", "find", "names", "saved_options"]

TRAINING = {"points", "class_weights", "label_smoothing", "dropout", "drop_path"}
"""Options that depend on the data or on how long is trained; they do not go from a checkpoint to the next run."""


def names() -> list[str]:
    """Every task's word on the command line."""
    return [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]


def find(name: str) -> Any:
    """The module of task `name`: TASK is its class, METHODS others by their `method` in Config, which is its options;
    RECIPE are the settings in which its training differs from the usual. VertebraError if there is none."""
    if name not in names():
        raise VertebraError(f"no task is called {name!r}; there are {', '.join(names())}.{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def preprocess_of(name: str, backbone: str, where: str | Path | None, source: str | None = None) -> Preprocess:
    """What task `name` does to pictures before `backbone`, with the mean and deviation that checkpoint `where` was
    trained with, and the way of resizing of its `source`, as far as they are known."""
    prepared: Preprocess = find(name).TASK.prepares(_known(backbone, where), backbone)
    foreign = _foreign(name, backbone, where, source)
    return foreign.prepares(prepared) if foreign else prepared


def _foreign(name: str, backbone: str, where: str | Path | None, source: str | None) -> Detector | None:
    """Another library's detector in a file, where task `name` can be filled from one."""
    if where is None or not issubclass(find(name).TASK, RegionTask):
        return None
    if known(backbones.family(backbone).WEIGHTS, where) or _about(backbone, where) is not None:
        return None
    return recognised(read(where)[0], source)


def _known(backbone: str, where: str | Path | None) -> Preprocess:
    """The preprocessing of a checkpoint; else the usual one at the backbone's own input size."""
    usual = Preprocess(size=backbones.family(backbone).VARIANTS[backbones.public_name(backbone)].image_size)
    if where is None:
        return usual
    if card := known(backbones.family(backbone).WEIGHTS, where):
        return card.preprocess
    about = _about(backbone, where) if Path(where).exists() else None
    return Preprocess.from_dict(about["preprocess"]) if about else usual


def create(
    name: str,
    *,
    classes: int | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    weights: str | Path | None = None,
    source: str | None = None,
    **options: Any,
) -> Task:
    """A task's model; `options` are fields of its Config. See `vertebra.create`.

    Of another library's detector, and of a checkpoint of ours with the same backbone, the file says which options it
    is built with, where they are left at their defaults.
    """
    module = find(name)
    if source is not None and weights is None:
        raise VertebraError(f"source={source!r} says whose names weights bear, but no weights are given.")
    check_fields(name, options, {field.name for field in dataclasses.fields(module.Config)})
    foreign: Detector | None = None
    told: dict[str, Any] = {}
    if weights is not None:
        usual = vars(module.Config())
        chosen = {key: value for key, value in options.items() if value != usual[key]}
        backbone = chosen.get("backbone", usual["backbone"])
        about = _about(backbone, weights)
        if about is not None:
            own = _own(about, name, backbone, chosen)
            if inner := own.get("backbone_options"):  # joined, not replaced
                own["backbone_options"] = inner | chosen.pop("backbone_options", {})
            told = {key: value for key, value in own.items() if key not in chosen and value != usual[key]}
            options |= told
        else:
            foreign = _foreign(name, backbone, weights, source)
        if foreign is not None:
            try:
                says = foreign.options(name)
            except VertebraError as error:
                raise VertebraError(f"{weights}: {error}") from error
            method = chosen.get("method", says["method"])
            if method != says["method"]:  # most are options of another one
                shared = {"norm"} if method.endswith("_c4") else {"norm", "neck", "neck_norm", "channels"}
                says = {key: value for key, value in says.items() if key in shared}
            options |= says | chosen
            classes = foreign.classes if classes is None else classes
    classes = 1000 if classes is None else classes
    labels = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    if not labels:
        raise VertebraError("classes is empty; give their number or their names.")
    config = module.Config(**options)
    if preprocess is None:
        preprocess = module.TASK.prepares(_known(config.backbone, weights), config.backbone)
        if foreign is not None:
            preprocess = foreign.prepares(preprocess)
    method = getattr(module, "METHODS", {}).get(getattr(config, "method", ""), module.TASK)
    task: Task = method(config, labels, preprocess)
    if weights is not None:
        task.report = task.load(weights, source=source, partial=True)
        task.report.adapted |= {key: f"{value}, as the checkpoint has it" for key, value in told.items()}
    return task


def _about(backbone: str, where: str | Path) -> dict[str, Any] | None:
    """What a checkpoint of ours says of itself; None of any other. No tensor is read."""
    if known(backbones.family(backbone).WEIGHTS, where):
        return None
    try:
        about = description(where).get("vertebra")
    except VertebraError:
        return None  # loading knows better what to say
    told: dict[str, Any] | None = json.loads(about) if about else None
    return told


def saved_options(about: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model in a checkpoint's description, as they were before JSON."""
    options = {key: as_tuples(value) for key, value in about["model"].items()}
    if isinstance(points := options.get("points"), dict):
        options["points"] = Points.from_dict(points)
    return options


def _own(about: Mapping[str, Any], name: str, backbone: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which a checkpoint of ours computes, as far as they concern a model of task `name` with this
    `backbone` and the options `chosen` for it."""
    options = saved_options(about)
    if backbones.public_name(options["backbone"]) != backbones.public_name(backbone):
        return {}
    if about["task"] != name or chosen.get("method", options.get("method")) != options.get("method"):
        return {"backbone_options": options["backbone_options"]}
    fields = {field.name for field in dataclasses.fields(find(name).Config)}
    return {key: value for key, value in options.items() if key in fields - TRAINING}
