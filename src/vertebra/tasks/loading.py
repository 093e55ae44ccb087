"""Checkpoints as they concern a task: whose they are, the options that they compute with, the tensors by our names."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vertebra import backbones, options
from vertebra.errors import VertebraError
from vertebra.nn.meta import build_on_meta, on_meta
from vertebra.nn.norm import has_norms
from vertebra.structures import Preprocess
from vertebra.tasks.base import BackboneTask
from vertebra.tasks.methods import find, methods, names, published
from vertebra.tasks.sources import ModelFile, read_model
from vertebra.weights import Checkpoint, Report, open_checkpoint
from vertebra.weights import known as known_card


def open_task_checkpoint(where: str | Path | Checkpoint, backbone: str | None, source: str | None = None) -> Checkpoint:
    """Reads a checkpoint, which may be a published one.

    Raises:
        VertebraError: if it cannot be read, or is published as that of a backbone of another family.
    """
    known = published(where, backbone or "")
    card = None if isinstance(where, Checkpoint) else known_card(known, where)
    if card and card.backbone and backbone and backbones.family(card.backbone) is not backbones.family(backbone):
        raise VertebraError(f"{where} is of the backbone {card.backbone}, not of {backbone}.")
    return open_checkpoint(where, known, source)


@dataclass
class Loaded:
    """A checkpoint as it concerns one task."""

    checkpoint: Checkpoint
    method: str | None
    """The method that it is of; None of a backbone's."""
    report: Report
    backbone_state: dict[str, Tensor] | None
    """The backbone's tensors, under its own names; None of a checkpoint of ours."""
    backbone_options: dict[str, Any]
    """Options of the backbone with which its library computes, or with which it was saved."""
    saved_options: dict[str, Any] = field(default_factory=dict)
    """Of a checkpoint of ours of the same task and method: the options that it was saved with."""
    file: ModelFile | None = None
    """Of another library's model."""
    num_classes: int | None = None

    @property
    def classes(self) -> int | tuple[str, ...] | None:
        """The number of classes of the model that the file is of, or their names where they are published."""
        card = self.checkpoint.card
        if card is None or self.num_classes is None or len(card.class_names) < self.num_classes:
            return self.num_classes
        return card.class_names[-self.num_classes :]  # without the background, which comes first

    def options_for(self, module: Any) -> dict[str, Any]:
        """The layer of options that the checkpoint brings to a model of `module`, by dotted path."""
        known = options.names(module.Config, training=False)
        layer: dict[str, Any] = dict(self.saved_options)
        if self.file is not None:
            if module.__name__.rpartition(".")[2] == self.method:
                layer = {**self.file.preset, **self.file.shapes}
                known = options.names(module.Config)
            else:  # what both methods have, computed as the library's own model of this method is
                source = module.SOURCES.get(self.file.source.partition("/")[0])
                layer = dict(self.file.preset if source is None else source.preset)
                layer |= {key: value for key, value in self.file.shapes.items() if key.startswith(("norm", "neck."))}
        layer = {key: value for key, value in layer.items() if key in known}
        if self.backbone_options and "backbone_options" in known:
            layer["backbone_options"] = self.backbone_options
        return layer

    def note(self, config: Any, module: Any) -> None:
        """Lists in the report the options that come from the checkpoint and are not the defaults."""
        usual = options.build(type(config))
        origin = "the checkpoint" if self.checkpoint.about is not None else self.report.source.partition("/")[0]
        layer = {k: v for k, v in self.options_for(module).items() if k not in ("backbone_options", "backbone")}
        kept = options.differing(config, layer)
        for key, value in options.differing(usual, layer).items():
            if key not in kept:
                self.report.adapted[key] = f"{value}, as {origin} has it"
        chosen = getattr(config, "backbone_options", {})
        for key, value in self.backbone_options.items() if self.checkpoint.about is not None else ():
            if chosen.get(key) == value:
                self.report.adapted[key] = f"{value}, as {origin} has it"

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name in the backbone."""
        if self.backbone_state is not None:
            return name in self.backbone_state
        return _in_ours(self.checkpoint.state, name)

    def freeze(self, config: Any) -> Any:
        """With norm `auto` decided: norms are frozen if the checkpoint has the statistics of all of them."""
        if getattr(config, "norm", None) != "auto":
            return config
        trunk = build_on_meta(
            lambda: backbones.create(config.backbone, level_norms=True, **config.backbone_options),
            self.checkpoint.state,
            self.checkpoint.path,
        )
        if not has_norms(trunk):
            return config
        if missing := [name for name in trunk.state_dict() if name.endswith("running_mean") and not self.has(name)]:
            self.report.adapted["norm"] = f"batch, because the checkpoint has no {missing[0]}"
            return config
        self.report.adapted["norm"] = "frozen, with the statistics of the checkpoint; the option norm chooses another"
        return dataclasses.replace(config, norm="frozen")

    def tensors(self, task: Any) -> dict[str, Tensor]:
        """The tensors under the model's own names."""
        if self.backbone_state is None:
            return dict(self.checkpoint.state)
        place = task.place if isinstance(task, BackboneTask) else dict
        return place(self.backbone_state) | (self.file.head_state if self.file else {})


def read(
    task: str,
    method: str | None,
    checkpoint: Checkpoint,
    source: str | None,
    backbone: str | None,
    inner: Mapping[str, Any],
    *,
    identify: bool = False,
) -> Loaded:
    """What a checkpoint means for a model of `task` and `backbone`, whose options `inner` the user has chosen.

    With `identify`, `backbone` is only the default, and another library's model keeps its own one.
    """
    source = checkpoint.source(source)
    if checkpoint.about is not None:
        return _read_ours(task, method, checkpoint, backbone)
    with naming(checkpoint.path):
        of_backbone = checkpoint.card is not None and not checkpoint.card.method
        recognised = None if of_backbone else _recognise(task, method, checkpoint.state, source)
        if recognised is None:
            if backbone is None or (source in (None, "vertebra") and _has_our_names(checkpoint.state, backbone, inner)):
                return Loaded(checkpoint, None, Report(str(checkpoint.path), source or "vertebra"), None, {})
            fit = backbones.fit(backbone, checkpoint, source=source, **inner)
            return Loaded(checkpoint, None, fit.report, fit.state, fit.options)
        owner, file = recognised
        assert backbone is not None
        if identify and (name := backbones.identify(file.backbone_state, file.source, level_norms=True)):
            backbone = file.shapes["backbone"] = name
        known = {name.partition("/")[0] for name in backbones.family(backbone).RULES}
        table = file.source if file.source.partition("/")[0] in known else None
        fit = backbones.fit_state(
            backbone, file.backbone_state, source=table, path=str(checkpoint.path), **{"level_norms": True, **inner}
        )
    fit.report.source = file.source
    fit.report.left_out |= file.left_out
    return Loaded(checkpoint, owner, fit.report, fit.state, fit.options, file=file, num_classes=file.num_classes)


def _read_ours(task: str, method: str | None, checkpoint: Checkpoint, backbone: str | None) -> Loaded:
    about = checkpoint.about
    assert about is not None
    report = Report(str(checkpoint.path), "vertebra")
    model = {key: options.as_tuples(value) for key, value in about["model"].items()}
    with naming(checkpoint.path):
        saved_backbone = backbones.public_name(model["backbone"]) if "backbone" in model else None
    if backbone is not None and saved_backbone != backbones.public_name(backbone):
        return Loaded(checkpoint, None, report, None, {})
    inner = dict(model.get("backbone_options") or {})
    if about["task"] not in names() or "method" not in about:
        return Loaded(checkpoint, None, report, None, inner)
    with naming(checkpoint.path):
        module = find(about["task"], about["method"])
        saved = options.flatten(module.Config, {k: v for k, v in model.items() if k != "backbone_options"})
        options.build(module.Config, saved)
    if about["task"] == task and method in (None, about["method"]):
        return Loaded(checkpoint, about["method"], report, None, inner, saved_options=saved)
    # Another method computes as this one does, where they have the same parts.
    computing = {"backbone", "norm_eps"}.union(*(reader.preset for reader in module.SOURCES.values()))
    saved = {key: value for key, value in saved.items() if key in computing}
    return Loaded(checkpoint, None, report, None, inner, saved_options=saved)


def _has_our_names(state: Mapping[str, Tensor], backbone: str, inner: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of a task of ours over this backbone, saved without a description."""
    trunk = on_meta(lambda: backbones.create(backbone, **inner))
    present = [_in_ours(state, name) for name, _ in trunk.named_parameters()]  # not all norms have statistics
    return sum(present) > 0.9 * len(present)  # a task may have a backbone without its last layers


def _in_ours(state: Iterable[str], name: str) -> bool:
    """Whether a task's state has this tensor of the backbone; C4 detectors keep its last stage as `stage`."""
    return f"backbone.{name}" in state or re.sub(r"^stages\.\d+\.", "stage.", name) in state


def _recognise(
    task: str, method: str | None, state: Mapping[str, Tensor], source: str | None
) -> tuple[str, ModelFile] | None:
    """The method of the task whose file this is, and its parts; None if it is of no model that a method reads.

    Raises:
        VertebraError: if several methods recognise it, another task's method does, or it is of another library than
            `source`.
    """
    if not any(find(task, name).SOURCES for name in methods(task)):
        return None
    matches = _matches(task, state)
    if method is not None and any(name == method for name, _, _ in matches):
        matches = [match for match in matches if match[0] == method]
    if len(matches) > 1:
        owners = " and ".join(f"{name} ({library})" for name, library, _ in matches)
        raise VertebraError(f"its tensors are recognised by {owners}: name the method.")
    if not matches:
        others = [(t, name) for t in names() if t != task for name, _, _ in _matches(t, state)]
        if others:
            owner_task, owner = others[0]
            raise VertebraError(f"this is a checkpoint of {owner}: it fits {owner_task}, not {task}.")
        return None
    owner, library, reader = matches[0]
    if source is not None and source.partition("/")[0] != library:
        raise VertebraError(f"its tensors have names of {library}, not of {source}; leave source out.")
    return owner, read_model(library, reader, state, source)


def _matches(task: str, state: Iterable[str]) -> list[tuple[str, str, Any]]:
    """(method, library, Source) of every method of the task that recognises a file with tensors of these names."""
    return [
        (name, library, source)
        for name in methods(task)
        for library, source in find(task, name).SOURCES.items()
        if source.recognises(state)
    ]


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A context whose errors begin with the path of the file."""
    try:
        yield
    except VertebraError as error:
        if str(error).startswith(str(path)):
            raise
        raise VertebraError(f"{path}: {error}") from error


def check_complete(module: Any, loaded: Loaded, given: Mapping[str, Any], preprocess: Preprocess) -> None:
    """Checks that the file's model is built as the method builds it, with the file's own options.

    Args:
        module: the method that the file is of.
        given: the backbone and its options that the user chose.

    Raises:
        VertebraError: naming what has no place in the model.
    """
    config = options.build(module.Config, loaded.options_for(module), given)
    labels = [str(i) for i in range(loaded.num_classes or 1)]
    model = build_on_meta(
        lambda: module.MODEL(config, labels, preprocess), loaded.checkpoint.state, loaded.checkpoint.path
    )
    with naming(loaded.report.path):
        model.check_fits(loaded.tensors(model))
