"""Settings of a run that trains several heads over one backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from vertebra import kinds, options, tasks
from vertebra.engine.settings import GROUPS, Data, Settings, resolve, run_config, superseded
from vertebra.errors import VertebraError, check_choices, check_fields, in_range, nearest, one_of, shown
from vertebra.metrics.heads import MEAN
from vertebra.tasks import multi

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 3e-4,
    "epochs": 24,
    "warmup": 0.5,
    "clip": 1.0,
    "data.batch_size": 8,
}
"""Training settings, where they differ from those of classification: those that suit the most demanding heads."""
LEFT_OUT = (
    "balance",
    "augment",
    "distill",
    "progressive",
    "progressive_size",
    "recipe",
    "teacher",
)
"""Settings that a run of several heads does not have; `balance` and `augment` are those of a head."""


@dataclass
class Trunk:
    """The backbone that all heads share."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's Config to replace."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    norm: Literal["batch", "frozen", "sync", "group"] = "batch"
    """Norm that replaces the backbone's batch norm; another than batch is for heads all of whose methods have the
    option."""
    share_necks: bool = True
    """Whether heads whose necks are alike (name, channels, norm and levels) read one neck."""


@dataclass
class Head:
    """A head, as the entry of its name in `heads` has it."""

    task: str
    """Its task."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of its method, and `method` itself; not those of the backbone."""
    data: dict[str, Any] = field(default_factory=dict)
    """Its images, `path` above all; what it does not say is as in `data` of the run."""
    augment: dict[str, Any] = field(default_factory=dict)
    """Random changes of its training images."""
    balance: bool = False
    """As in training a single task."""
    weight: float = 1.0
    """Factor on its loss."""
    share: float = 1.0
    """How often it takes part in a step, relative to the head with the largest share, which does in all."""

    def __post_init__(self) -> None:
        in_range("weight", self.weight, 0, 1_000_000)
        in_range("share", self.share, 0.001, 1000)


@dataclass
class MultiSettings(Settings):
    """A run that trains several heads over one backbone."""

    FIXED: ClassVar[tuple[str, ...]] = (*Settings.FIXED, "weighting")

    task: str = multi.NAME
    heads: dict[str, Any] = field(default_factory=dict)
    """The heads by name: each has a `task`, and may have `model`, `data`, `augment`, `balance`, `weight`, `share`."""
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    """How the losses of the heads are added: multiplied by their weights, or also by factors that are learned, from the
    uncertainty of each task."""
    monitor: str = MEAN
    """What selects the best checkpoint: `mean`, the mean of the main metrics of all heads, or the main metric of one
    head, by its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        multi.check_names(self.heads)
        one_of("monitor", self.monitor, (MEAN, *self.heads))
        entries = {name: self.head(name) for name in self.heads}
        if not any(head.weight for head in entries.values()):
            raise VertebraError(f"the weights of all heads, {', '.join(entries)}, are 0: nothing would be learned.")
        if self.strategy == "fsdp":
            raise VertebraError("strategy fsdp is for a single task: choose ddp.")
        if "auto" in (self.lr, self.data.batch_size, *(head.data.get("batch_size") for head in entries.values())):
            raise VertebraError("lr and data.batch_size auto are for a single task: give numbers.")

    @property
    def left_out(self) -> list[str]:
        return list(LEFT_OUT)

    def head(self, name: str) -> Head:
        """The entry of a head. Raises VertebraError if it is not well-formed."""
        entry = self.heads[name]
        where = f"heads.{name}"
        if not isinstance(entry, Mapping):
            raise VertebraError(f"{where} is {shown(entry)}; it takes a mapping: {_listed(Head)}.")
        check_fields(where, entry, [option.name for option in fields(Head)])
        if "task" not in entry:
            raise VertebraError(f"{where} has no task; there are {', '.join(tasks.names())}.")
        options.check_types(Head, entry, f"{where}.")
        try:
            return Head(**entry)
        except VertebraError as error:
            raise VertebraError(f"{where}.{error}") from error

    def of_head(self, name: str) -> Settings:
        """The settings of a head as those of a run of its task, with what it has in common with the others.

        Raises:
            VertebraError: for a task, method or option that does not exist, and a value that is refused.
        """
        head = self.head(name)
        try:
            method = head.model.get("method") or tasks.default_method(head.task)
            known = {option.partition(".")[0] for option in options.names(tasks.find(head.task, method).Config)}
            trunk = {option.name for option in fields(Trunk)}
            if wrong := next((option for option in head.model if option in trunk), None):
                raise VertebraError(f"model.{wrong} is one for all heads: give it beside heads, as model.{wrong}.")
            given = {option: value for option, value in self.trunk().items() if option in known}
            common = {option.name: getattr(self.data, option.name) for option in fields(Data)}
            overrides = {
                "model": {**{key: v for key, v in head.model.items() if key != "method"}, **given},
                "data": {**common, "resize": self.resize(), **head.data},
                "augment": head.augment,
                **({"balance": True} if head.balance else {}),
                **{key: getattr(self, key) for key in ("seed", "strict", "device", "processes")},
            }
            settings = resolve(head.task, method, overrides)
        except VertebraError as error:
            raise VertebraError(f"head {name!r}: {error}") from error
        return replace(settings, weights=self.weights, source=self.source, resume=self.resume)

    def trunk(self) -> dict[str, Any]:
        """The options of the backbone."""
        trunk = options.build(Trunk, self.model, owner="model.")
        check_choices(trunk)
        chosen = asdict(trunk)
        chosen["backbone_options"] = {**multi.TRUNK_OPTIONS, **chosen["backbone_options"]}
        return chosen

    def resize(self) -> str:
        """How images are resized: for `auto` the first way that the kinds of all heads support."""
        if self.data.resize != "auto":
            return self.data.resize
        modes = [kinds.find(tasks.find(self.head(name).task).MODEL.kind).resize_modes for name in self.heads]
        common = [mode for mode in modes[0] if all(mode in others for others in modes)]
        if not common:
            raise VertebraError(
                f"heads {', '.join(self.heads)} want incompatible inputs: there is no way of resizing images that all "
                "of them take."
            )
        return common[0]


def resolve_heads(overrides: Mapping[str, Any]) -> MultiSettings:
    """The settings of a run: RECIPE < config.yaml of the run that is resumed < what the user gave.

    Args:
        overrides: fields of MultiSettings; those of `model` and `data` as mappings or by dotted name.

    Raises:
        VertebraError: for a name that does not exist, with the nearest that does, and a value that is refused.
    """
    layers = [RECIPE, _flat(overrides)]
    if resume := layers[1].get("resume"):
        layers.insert(1, {"model.share_necks": False, **_flat(run_config(os.fspath(resume)))})  # as earlier versions
        if (before := layers[1].get("task")) != multi.NAME:
            raise VertebraError(
                f"{resume} is a run of {before}, not of several heads: vertebra train {before} --resume."
            )
    known = [
        *(option.name for option in fields(MultiSettings) if option.name not in (*GROUPS, *LEFT_OUT, "method")),
        *(f"model.{option.name}" for option in fields(Trunk)),
        *(f"data.{option.name}" for option in fields(Data)),
    ]
    merged: dict[str, Any] = {}
    for layer in layers:
        for name in layer:
            if name not in known:
                raise VertebraError(f"training several heads has no setting {shown(name)}.{nearest(name, known)}")
        for name in superseded(merged, layer):
            del merged[name]
        merged |= layer
    if merged.get("warmup_steps"):
        merged.setdefault("warmup", 0.0)
    scalars = {key: options.as_tuples(value) for key, value in merged.items() if "." not in key and key != "heads"}
    options.check_types(MultiSettings, {**scalars, "heads": merged.get("heads", {})})
    data = options.build(Data, _part(merged, "data"), owner="data.")
    check_choices(data)
    settings = MultiSettings(
        **scalars,
        heads={name: plain_entry(entry) for name, entry in merged.get("heads", {}).items()},
        model=_part(merged, "model"),
        data=data,
    )
    settings.trunk()  # raises if a value is refused
    for name in settings.heads:
        settings.of_head(name)
    return settings


def plain_entry(entry: Any) -> Any:
    """The entry of a head with dotted names as nested mappings: `{"data.path": "a"}` -> `{"data": {"path": "a"}}`."""
    if not isinstance(entry, Mapping):
        return entry
    nested: dict[str, Any] = {}
    for key, value in entry.items():
        group, _, name = str(key).partition(".")
        if name and isinstance(nested.setdefault(group, {}), dict):
            nested[group][name] = value
        elif isinstance(value, Mapping):
            nested[group] = {**nested.get(group, {}), **value}
        else:
            nested[key] = value
    return nested


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, those of Data also by their name alone; the heads as one."""
    data = [option.name for option in fields(Data)]
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("model", "data") and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        elif value is not None:
            key = f"data.{key}" if key in data else key
            flat[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return flat


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}


def _listed(config: Any) -> str:
    names: Sequence[str] = [option.name for option in fields(config)]
    return ", ".join(names)
