"""What a run that is resumed starts from, and what it must keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor

from vertebra import options, tasks
from vertebra.data.catalogue import Catalogue
from vertebra.engine import optim, state
from vertebra.engine.settings import Settings, cannot_change, run_folder
from vertebra.engine.state import NUMBER, form_of, misfit
from vertebra.engine.trainee import RunHistory, Trainee
from vertebra.errors import VertebraError, first_line, shown
from vertebra.files import remove_leftovers
from vertebra.kinds import Kind
from vertebra.tasks import Plan, Task


class Facts(L.Callback):
    """Keeps in the state what a run was trained with; its config.yaml can be edited."""

    FORM: Mapping[str, Any] = {
        "fixed": {str: object},
        "model": {str: object},
        "classes": [str],
        "images": {str: int},
    }
    """See `state.misfit`."""

    def __init__(self, settings: Settings, task: Task, catalogue: Catalogue) -> None:
        self.facts = {
            "fixed": _fixed(settings),
            "model": options.plain(task.config),
            "classes": list(task.classes),
            "images": {split: len(samples) for split, samples in catalogue.splits.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return self.facts


@dataclass(frozen=True)
class StoppedRun:
    """A run to resume; its config.yaml is written again after the first further epoch."""

    path: Path
    """Its last.ckpt."""
    facts: Mapping[str, Any]
    """What it was trained with, as `Facts` keeps it."""
    epochs: int
    """Epochs that it has finished."""

    @property
    def folder(self) -> Path:
        return self.path.parent

    @staticmethod
    def open(where: str | Path) -> StoppedRun:
        """The run in a folder, or of a last.ckpt.

        Raises:
            VertebraError: if there is none, or it is damaged.
        """
        path = run_folder(where) / "last.ckpt"
        if not path.is_file():
            raise VertebraError(
                f"{path} is not there, so there is nothing to resume; a run writes it after each epoch."
            )
        remove_leftovers(path.parent)
        state.check_whole(path)
        kept = state.read(path, mapped=True)["callbacks"]
        form = {"Facts": Facts.FORM, "RunHistory": {"history": [{"epoch": int}]}}
        try:
            json.dumps(kept.get("Facts"))  # they are compared below
            reason = misfit(kept, form, "callbacks")
        except (TypeError, ValueError, RecursionError) as error:
            reason = first_line(error)
        if reason:
            raise state.damaged(path, reason)
        return StoppedRun(path, kept["Facts"], len(kept["RunHistory"]["history"]))

    def check_data(self, kind: Kind, catalogue: Catalogue, data: Any = None) -> None:
        """Raises VertebraError if the data has other classes or facts, such as keypoints, than the run was trained on.

        Another number of images is a note of the catalogue.
        """
        now, before = list(catalogue.classes), list(self.facts["classes"])
        if now != before:
            raise VertebraError(f"{_differing('classes', now, before)}, in this order: {self._start_anew()}")
        for name, value in options.plain(kind.model_options(catalogue, data=data)).items():
            earlier = options.plain(self.facts["model"].get(name))
            if name in self.facts["model"] and value != earlier:
                raise VertebraError(f"{_differing(name, value, earlier)}: {self._start_anew()}")
        for split, samples in catalogue.splits.items():
            count = self.facts["images"].get(split, 0)
            if count != len(samples):
                catalogue.notes.append(
                    f"{len(samples)} {split} {kind.items}, {count} when the run was stopped: its result is not that "
                    "of a run without a stop"
                )

    def check_settings(self, settings: Settings, plan: Plan) -> None:
        """Raises VertebraError if a setting differs that a resumed run cannot change."""
        if settings.epochs < self.epochs:
            raise VertebraError(
                f"{self.folder} has {self.epochs} epochs already, and epochs is {settings.epochs}: give "
                "--epochs=NUMBER."
            )
        before, now = self.facts["fixed"], _fixed(settings)
        _check_same({name: (before.get(name), value) for name, value in now.items()}, self.folder)
        lasting = options.names(type(plan.config), training=False)
        usual = options.plain(options.build(type(plan.config)))  # of options that are newer than the run
        old, new = _flat(usual | self.facts["model"]), _flat(options.plain(plan.config))
        _check_same({f"model.{name}": (old.get(name), new[name]) for name in lasting}, self.folder)

    def check_model(self, settings: Settings, config: Any) -> None:
        """As `check_settings`, of a model of several heads with this config, all of whose options are kept."""
        if settings.epochs < self.epochs:
            raise VertebraError(f"{self.folder} has {self.epochs} epochs already, and epochs is {settings.epochs}.")
        before, now = self.facts["fixed"], _fixed(settings)
        _check_same({name: (before.get(name), value) for name, value in now.items()}, self.folder)
        old, new = {"share_necks": False, **_flat(self.facts["model"])}, _flat(options.plain(config))
        for name, head in config.heads.items():  # options that are newer than the run have their defaults
            usual = options.build(tasks.find(head["task"], head["method"]).Config)
            old = _flat(options.plain(usual), f"heads.{name}.model.") | old
        names = [name for name in {**old, **new} if not isinstance(new.get(name, old.get(name)), Mapping)]
        _check_same({name: (old.get(name), new.get(name)) for name in names}, self.folder)

    def check_state(self, trainer: L.Trainer, trainee: Trainee) -> None:
        """Raises VertebraError if last.ckpt is no state of this run: a part is missing or of another type or shape."""
        content = state.read(self.path, mapped=True)
        optimizer = trainee.new_optimizer()
        if reason := next(_misfits(content, trainer, trainee, optimizer), None):
            raise state.damaged(self.path, reason)

    def _start_anew(self) -> str:
        return f"restore the data, or start a new run with --weights={self.folder / 'best.safetensors'}."


def _fixed(settings: Settings) -> dict[str, Any]:
    """Settings besides the model's that a resumed run cannot change."""
    return {
        **{name: getattr(settings, name) for name in settings.FIXED},
        "model.method": settings.method,
        "data.channels": settings.data.channels,
        "ema": bool(settings.ema),
        "teacher": settings.teacher,
        "distill.loss": settings.distill.loss if settings.teacher else None,
        "distill.unlabelled": settings.distill.unlabelled,
    }


def _check_same(values: Mapping[str, tuple[Any, Any]], folder: Path) -> None:
    for name, (earlier, later) in values.items():
        if earlier != later:
            raise VertebraError(cannot_change(name, later, earlier, folder))


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted path, with groups as well."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _differing(name: str, now: Any, before: Any) -> str:
    """The sentence on a fact of the data that is another than the run's; of long lists, their first difference."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        part = next(key for key in {**now, **before} if now.get(key) != before.get(key))
        return _differing(f"{name} {part}", now.get(part), before.get(part))
    if isinstance(now, list) and isinstance(before, list) and max(len(now), len(before)) > 10:
        pairs = zip([*now, None], [*before, None], strict=False)
        i = next(i for i, (a, b) in enumerate(pairs) if a != b)
        parts = [f"has {len(v)} {name}{f', number {i} is {shown(v[i])}' if i < len(v) else ''}" for v in (now, before)]
        return f"the data {parts[0]}; the data that the run was trained on {parts[1]}"
    return f"the data has {name} {_listed(now)}; the run was trained on {_listed(before)}"


def _listed(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) and value else shown(value)


def _misfits(
    content: dict[str, Any], trainer: L.Trainer, trainee: Trainee, optimizer: torch.optim.Optimizer
) -> Iterator[str]:
    """Where the content of a state is not what this run restores; empty strings where it is."""
    weights = trainee.state_dict()
    form: dict[str, Any] = {
        "epoch": int,
        "global_step": int,
        "pytorch-lightning_version": str,
        "unreadable": [str],
        "state_dict": weights,
        "loops": {"fit_loop": {}},
        "callbacks": {RunHistory.__name__: {"history": [{str: NUMBER}]}},
        "optimizer_states": [{"state": {int: {str: object}}, "param_groups": [{"params": [int]}]}],
        "lr_schedulers": [{"last_epoch": int, "_step_count": int, "base_lrs": [NUMBER], "lr_lambdas": list}],
    }
    if trainee.settings.ema:
        form |= {"current_model_state": weights, "averaging_state": {"n_averaged": torch.zeros((), dtype=torch.int64)}}
    yield from filter(None, [misfit(content, form)])
    history, best = (content["callbacks"]["RunHistory"].get(name) for name in ("history", "best"))
    if best is not None:
        yield from filter(None, [misfit(best, {"score": NUMBER, "epoch": int, "metrics": {str: object}}, "best")])
    if [row["epoch"] for row in history] != list(range(1, content["epoch"] + 2)):
        yield "its epochs are not those of its history"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (kept := content["callbacks"].get(callback.state_key)) and not isinstance(callback, RunHistory | Facts):
            yield from filter(None, [misfit(kept, form_of(callback.state_dict()), callback.state_key)])
    try:
        Version(content["pytorch-lightning_version"])
    except InvalidVersion as error:
        yield first_line(error)
    if content["pytorch-lightning_version"] == L.__version__:
        yield from _unlike(content["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops")
    if any(len(content[name]) != 1 for name in ("optimizer_states", "lr_schedulers")):
        yield "it has more than one optimiser"
    yield from _optimizer_misfits(content["optimizer_states"][0], optimizer)
    yield from _schedule_misfits(content["lr_schedulers"][0], optimizer, trainee.settings)


def _unlike(value: Any, example: dict[str, Any], where: str) -> Iterator[str]:
    """Where a mapping has other keys or types than an example, at any depth."""
    yield from filter(None, [misfit(value, form_of(example), where)])
    for key, item in example.items():
        if isinstance(item, dict):
            yield from _unlike(value[key], item, f"{where}[{key!r}]")
    if more := value.keys() - example.keys():
        yield f"{where} has {shown(min(map(str, more)), 40)}"


def _optimizer_misfits(kept: dict[str, Any], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    groups = optimizer.param_groups
    counts = [len(group["params"]) for group in groups]
    numbers = [number for group in kept["param_groups"] for number in group["params"]]
    if [len(group["params"]) for group in kept["param_groups"]] != counts or numbers != list(range(sum(counts))):
        yield "its optimiser has other parameters"
    parameters = [parameter for group in groups for parameter in group["params"]]
    probe = torch.zeros(1, requires_grad=True)
    probe.grad = torch.zeros(1)
    trial = type(optimizer)([{**groups[0], "params": [probe]}])  # type: ignore[call-arg]
    trial.step()
    for number, entry in kept["state"].items():
        if number >= len(parameters):
            yield f"its optimiser has no parameter {number}"
        shapes = {name: parameters[number] if value.shape == probe.shape else value for name, value in _tensors(trial)}
        tensors = {name: value for name, value in entry.items() if value is not None}  # without momentum
        if tensors:
            yield from filter(None, [misfit(tensors, shapes, f"its optimiser's parameter {number}")])
        if more := tensors.keys() - shapes.keys():
            yield f"its optimiser's parameter {number} has {shown(min(more), 40)}"


def _tensors(optimizer: torch.optim.Optimizer) -> Sequence[tuple[str, Tensor]]:
    """The state of an optimiser's only parameter."""
    (entry,) = optimizer.state.values()
    return [(name, value) for name, value in entry.items() if isinstance(value, Tensor)]


def _schedule_misfits(kept: dict[str, Any], optimizer: torch.optim.Optimizer, settings: Settings) -> Iterator[str]:
    count = len(optimizer.param_groups)
    if len(kept["base_lrs"]) != count or kept["lr_lambdas"] != [None] * count:
        yield "its learning rates are those of another optimiser"
    schedule = optim.schedule(optimizer, settings, steps=1)
    if more := kept.keys() - schedule.state_dict().keys():
        yield f"its schedule has {shown(min(map(str, more)), 40)}"
