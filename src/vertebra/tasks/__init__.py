"""Tasks and their methods: a model from its task, options and checkpoint. Nothing is registered: see `methods`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vertebra import options
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, shown
from vertebra.nn.meta import build_on_meta, build_to_fill, on_meta
from vertebra.structures import Preprocess, check_classes
from vertebra.tasks.base import Metrics, Task
from vertebra.tasks.loading import Loaded, check_complete, open_task_checkpoint, read
from vertebra.tasks.methods import check_options, default_method, find, known_methods, methods, names, published
from vertebra.weights import Checkpoint, Report, known

__all__ = [
    "Metrics",
    "Plan",
    "Task",
    "check_options",
    "create",
    "default_method",
    "find",
    "known_methods",
    "methods",
    "names",
    "open_task_checkpoint",
    "plan",
    "published",
]


@dataclass
class Plan:
    """A model whose options are decided, not yet built."""

    module: Any
    """The method's module."""
    config: Any
    classes: tuple[str, ...]
    preprocess: Preprocess
    loaded: Loaded | None = None
    """The checkpoint's tensors and what it says of the options."""

    def build(self, preprocess: Preprocess | None = None, backbone: Backbone | None = None) -> Task:
        """Builds the model, over `backbone` if it exists already, and fills it from the checkpoint, if there is one."""
        if self.loaded is None:
            return self._new(preprocess, backbone)
        if backbone is not None:
            task = self._new(preprocess, backbone)
            task.report = task.fill(self.loaded.tensors(task), self.loaded.report, partial=True)
            return task
        if self.loaded.checkpoint.about is not None:
            empty = self.build_on_meta(self.loaded.checkpoint, preprocess)
        else:
            empty = on_meta(lambda: self._new(preprocess))
        state = self._of_classes(self.loaded.tensors(empty), empty)
        new = empty.fill(state, copy.deepcopy(self.loaded.report), partial=True).new
        if self.module.MODEL.keeps_initial_values:
            task = self._new(preprocess)
        else:
            task = build_to_fill(lambda: self._new(preprocess), empty, new)
        task.report = task.fill(state, self.loaded.report, partial=True)
        return task

    def _of_classes(self, state: dict[str, Tensor], empty: Task) -> dict[str, Tensor]:
        """Tensors of a checkpoint of ours without those of its classes, where it has as many, but others; where it has
        them in another order, with the rows of those with a row per class in the order of this model's.

        Classes whose names are numbers, as where nobody named them, may be any.
        """
        assert self.loaded is not None
        about = self.loaded.checkpoint.about
        old = tuple(map(str, (about or {}).get("classes", ())))
        if len(old) != len(self.classes) or old == self.classes or any(_are_numbers(c) for c in (old, self.classes)):
            return state
        config = replace(self.config, class_weights=None) if hasattr(self.config, "class_weights") else self.config
        larger = on_meta(
            lambda: self.module.MODEL(config, (*self.classes, _another(self.classes)), empty.preprocess)
        ).state_dict()
        order = [old.index(name) for name in self.classes] if set(old) == set(self.classes) else None
        kept = dict(state)
        for name, value in empty.state_dict().items():
            if name not in kept or name not in larger or larger[name].shape == value.shape:
                continue
            if (
                order is not None
                and value.ndim
                and len(value) == len(order)
                and larger[name].shape[1:] == value.shape[1:]
            ):
                kept[name] = kept[name][order]
            else:
                del kept[name]
        return kept

    def _new(self, preprocess: Preprocess | None, backbone: Backbone | None = None) -> Task:
        shared = {} if backbone is None else {"backbone": backbone}
        task: Task = self.module.MODEL(self.config, self.classes, preprocess or self.preprocess, **shared)
        return task

    def build_on_meta(self, checkpoint: Checkpoint, preprocess: Preprocess | None = None) -> Task:
        """The model without its data, of which nothing is allocated.

        Args:
            checkpoint: which the options are from.

        Raises:
            VertebraError: if it cannot be built, or is far larger than the checkpoint.
        """
        return build_on_meta(lambda: self._new(preprocess), checkpoint.state, checkpoint.path)


def _are_numbers(classes: Sequence[str]) -> bool:
    return list(classes) == [str(i) for i in range(len(classes))]


def _another(classes: Sequence[str]) -> str:
    """The name of a class that is none of these."""
    return next(name for i in range(len(classes) + 1) if (name := str(i)) not in classes)


def create(
    task: str,
    *,
    method: str | None = None,
    classes: int | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    weights: str | Path | Checkpoint | None = None,
    source: str | None = None,
    **options: Any,
) -> Task:
    """A task's model; `options` are those of the method's Config. See `vertebra.create`."""
    planned = plan(task, method=method, classes=classes, weights=weights, source=source, **options)
    return planned.build(preprocess)


def plan(
    task: str,
    *,
    method: str | None = None,
    classes: int | Sequence[str] | None = None,
    weights: str | Path | Checkpoint | None = None,
    source: str | None = None,
    **given: Any,
) -> Plan:
    """Decides the options of a model. The later win: defaults; those of the checkpoint's library; those that the shapes
    of its tensors show, or that a checkpoint of ours was saved with; `given`.

    Args:
        task, method, classes, weights, source: as for `vertebra.create`.
        given: the user's options, by dotted path or as nested mappings.

    Raises:
        VertebraError: if a name is unknown, or the checkpoint cannot be read or is of another kind of model.
    """
    if source is not None and weights is None:
        raise VertebraError(f"source={shown(source)} names the library of a checkpoint, but no weights are given.")
    module = find(task, method)
    given = _with_backbone(module, weights, given)
    check_options(task, method or default_method(task), given)
    loaded = None
    if weights is not None:
        backbone, inner = _chosen_backbone(module, given)
        checkpoint = open_task_checkpoint(weights, backbone, source)
        if checkpoint.about is not None and "backbone" not in given:
            backbone = checkpoint.about["model"].get("backbone")
        loaded = read(task, method, checkpoint, source, backbone, inner, identify="backbone" not in given)
        if loaded.method is not None and method is None:
            module = find(task, loaded.method)
            check_options(task, loaded.method, given)
    layers = [] if loaded is None else [loaded.options_for(module)]
    config = _build(module.Config, *layers, given)
    if loaded is not None:
        config = loaded.freeze(config)
        loaded.note(config, module)
    if classes is None:
        classes = module.MODEL.fixed_classes or (loaded and loaded.classes) or module.MODEL.usual_classes or 1000
    labels = tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    check_classes(labels)
    known = None if loaded is None else loaded.checkpoint.preprocess
    preprocess = module.MODEL.default_preprocess(known, config)
    if loaded is not None and loaded.file is not None:
        preprocess = dataclasses.replace(preprocess, **loaded.file.preprocess)
        if module is find(task, loaded.method):
            chosen = [key for key in ("backbone", "backbone_options") if key in given]
            trunk: dict[str, Any] = {key: getattr(config, key) for key in chosen}
            check_complete(module, loaded, trunk, preprocess)
    return Plan(module, config, labels, preprocess, loaded)


def load(task: Task, where: str | Path, *, source: str | None = None, partial: bool = False) -> Report:
    """Fills a model that exists; see `Task.load`."""
    config = task.config
    backbone, inner = getattr(config, "backbone", None), getattr(config, "backbone_options", {})
    checkpoint = open_task_checkpoint(where, backbone, source)
    loaded = read(task.task_name, task.method, checkpoint, source, backbone, inner)
    module = find(task.task_name, task.method)
    required = {key: value for key, value in loaded.options_for(module).items() if key not in ("norm", "norm_eps")}
    other = options.differing(config, required)
    if other and not partial:
        listed = ", ".join(f"{key}={shown(value)}" for key, value in other.items())
        raise VertebraError(
            f"{loaded.report.path}: this checkpoint computes with {listed}: create the model with these options, or "
            "let vertebra.create(..., weights=...) find them."
        )
    if loaded.file is not None and not partial:
        trunk: dict[str, Any] = {"backbone": config.backbone, "backbone_options": config.backbone_options}
        check_complete(module, loaded, trunk, task.preprocess)
    return task.fill(loaded.tensors(task), loaded.report, partial=partial)


def _build(config: type, *layers: Mapping[str, Any]) -> Any:
    """A config from layers, with the options of the backbone joined instead of replaced."""
    inner: dict[str, Any] = {}
    for layer in layers:
        inner |= layer.get("backbone_options") or {}
    joined = {"backbone_options": inner} if inner else {}
    return options.build(config, *layers, joined)


def _with_backbone(module: Any, weights: str | Path | Checkpoint | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's options, with the backbone that published weights are of if the user names none."""
    if isinstance(weights, str) and "backbone" not in given and "backbone" in options.names(module.Config):
        card = known(published(weights), weights)
        if card is not None and card.backbone:
            return {**given, "backbone": card.backbone}
    return dict(given)


def _chosen_backbone(module: Any, given: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The backbone that the user names, or the method's default one, and its options."""
    usual = {f.name: f.default for f in dataclasses.fields(module.Config)}
    if "backbone" not in usual:
        return None, {}
    return given.get("backbone", usual["backbone"]), dict(given.get("backbone_options") or {})
