"""Everything that decides a training run: command-line flags, keys of config.yaml, keywords of `vertebra.train`."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from vertebra import kinds, options, tasks
from vertebra.errors import VertebraError, check_choices, first_line, nearest

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of the computation, by Lightning's names."""
GROUPS = ("model", "data", "augment")
"""Settings that hold further ones."""


@dataclass
class Data:
    """Which images, and how they enter the network."""

    path: str = "shapes"
    """Folder or file in any known format, see `vertebra data`, or `shapes` (built in)."""
    image_size: int = 0
    """Side of the square input, in pixels, or of the shorter side where images keep their shape; 0 takes the default:
    the backbone's own for classification, mostly 224, and 800 for boxes."""
    batch_size: int = 32
    """Images per step, over all processes together."""
    workers: int | None = None
    """Processes that read images; chosen by the number of cores if not given."""
    val_share: float = 0.2
    """Share of each class set apart for validation where the data has no val split, in 0..1."""
    channels: int = 3
    """1 reads images as grey, 3 as RGB."""
    resize: Literal["auto", "crop", "squash", "shortest", "fit"] = "auto"
    """Classification: `crop` keeps the aspect ratio and takes the centre, `squash` stretches the whole image to the
    input. Boxes: `shortest` scales by the shorter side, up to 1.67 times that for the longer; `fit` scales the whole
    image into the square. `auto` takes the first that the task and the backbone support."""


@dataclass
class Settings:
    """A training run."""

    task: str
    """The task to train."""
    method: str | None = None
    """The method of the task; that of the checkpoint, else the task's default, if not given."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model by dotted path: those that the user gave, once training has begun all of them."""
    data: Data = field(default_factory=Data)
    """Which images, and how they enter the network."""
    augment: Any = None
    """Random changes of training images: the augmentation dataclass of the task's kind."""
    epochs: int = 30
    """Passes over the training images."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with Nesterov momentum, or `adamw`."""
    lr: float | None = None
    """Peak learning rate; 0.02 for sgd and 0.001 for adamw if not given."""
    final_lr_ratio: float = 0.01
    """The cosine schedule ends at lr * final_lr_ratio."""
    momentum: float = 0.9
    """Momentum of sgd; adamw's first beta."""
    weight_decay: float | None = None
    """On weights of two or more dimensions; 0.0001 for sgd and 0.05 for adamw if not given."""
    warmup: float = 1.0
    """Epochs in which the learning rate rises linearly to lr."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer away from the output; 1 gives all layers the same rate."""
    freeze_backbone: bool = False
    """Train the head alone."""
    weights: str | None = None
    """Checkpoint to start from: a file, a folder, a published name or a Hub name; what does not fit is listed."""
    source: str | None = None
    """Library whose tensor names `weights` has, such as `mmdet/caffe`; recognised if not given."""
    balance: bool = False
    """Weight each class in the loss by the inverse of its share of the training images."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, such as 0.999; the average is validated and saved.
    0 turns it off."""
    accumulate: int = 1
    """Batches whose gradients are averaged before a step."""
    clip: float = 0.0
    """Maximum norm of the gradient; 0 does not clip."""
    patience: int = 0
    """Validations without improvement after which training stops; 0 never stops early."""
    val_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    precision: Precision = "32-true"
    """Number format of the computation."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    strict: bool = False
    """Stop at the first unreadable image or wrong annotation instead of listing it."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type; `auto` takes the fastest available."""
    devices: int = 0
    """Processes, one per device; 0 takes all available (one on a CPU)."""
    seed: int = 0
    """Seed of all random numbers; the same seed gives the same run."""
    output: str | None = None
    """Folder for the results; runs/TASK-BACKBONE-NUMBER if not given."""
    resume: str | None = None
    """Run folder (or its last.ckpt) of a stopped run to continue."""

    @property
    def peak_lr(self) -> float:
        return self.lr if self.lr is not None else {"sgd": 0.02, "adamw": 0.001}[self.optimizer]

    @property
    def decay(self) -> float:
        return self.weight_decay if self.weight_decay is not None else {"sgd": 1e-4, "adamw": 0.05}[self.optimizer]


SCALARS = tuple(name for name in Settings.__dataclass_fields__ if name not in ("task", "method", *GROUPS))
"""Settings that hold a value of their own."""


def resolve(task: str, method: str | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a run: default < the method's RECIPE < the resumed run's config.yaml < what the user gave.

    With another optimizer than the recipe's, the recipe's learning rate does not apply.

    Args:
        task: its name.
        method: its name; `model.method` of the settings if None. Without either it is left to the checkpoint in
            `weights`, or is the task's default.
        overrides: fields of Settings; those of `model`, `data` and `augment` as mappings or by dotted name
            (`data.batch_size`); those of Data also by their name alone.

    Raises:
        VertebraError: for a task, method, setting or option that does not exist (with the nearest that does), and a
            value of another type.
    """
    layers = [_flat(overrides)]
    if resume := layers[0].get("resume"):
        layers.insert(0, _flat(run_config(resume)))
        check_resumed_method(resume, task, method or layers[1].get("model.method"))
    chosen = {key: value for layer in layers for key, value in layer.items()}
    method = method or chosen.get("model.method")
    module = tasks.find(task, method)
    augment = kinds.find(module.MODEL.kind).augment
    recipe = _flat(module.RECIPE)
    usual = recipe.get("optimizer", Settings.optimizer)
    if chosen.get("optimizer", usual) != usual:
        recipe.pop("lr", None)
    merged: dict[str, Any] = {}
    for layer in (recipe, *layers):
        named = {key: value for key, value in layer.items() if key not in ("task", "method", "model.method")}
        _check_names(named, task, method or tasks.default_method(task), augment)
        model = options.flatten(module.Config, _part(named, "model"))
        merged |= {key: value for key, value in named.items() if not key.startswith("model.")}
        merged |= {f"model.{name}": value for name, value in model.items()}
    scalars = {key: value for key, value in merged.items() if key in SCALARS}
    _check_types(Settings, scalars)
    _check_types(module.Config, _part(merged, "model"), "model.")
    settings = Settings(
        task,
        method or (None if merged.get("weights") else tasks.default_method(task)),
        model=_part(merged, "model"),
        data=_built(Data, "data", merged),
        augment=_built(augment, "augment", merged),
        **scalars,
    )
    check_choices(settings)
    return settings


def check_resumed_method(resume: str, task: str, method: str | None) -> None:
    """Raises VertebraError if the run to resume is of another task, or of another method where one is chosen."""
    before = _flat(run_config(resume))
    for name, value in (("task", task), ("model.method", method)):
        if value not in (None, before.get(name)):
            raise VertebraError(cannot_change(name, value, before.get(name), run_folder(resume)))


def cannot_change(name: str, value: Any, before: Any, folder: Path) -> str:
    """The sentence about a setting that a resumed run must keep."""
    return (
        f"{name} is {value!r} and was {before!r}, which a run that is resumed cannot change: start a new one with "
        f"--weights={folder / 'best.safetensors'}."
    )


def run_folder(where: str | Path) -> Path:
    """The folder of a run, or of its last.ckpt."""
    return Path(where).parent if Path(where).suffix == ".ckpt" else Path(where)


def run_config(where: str | Path) -> dict[str, Any]:
    """The config.yaml of a run folder, or of the folder that holds `where`, its last.ckpt.

    Raises:
        VertebraError: if it is missing or damaged.
    """
    folder = run_folder(where)
    path = folder / "config.yaml"
    if not path.is_file():
        raise VertebraError(f"{folder} is not a run folder: it holds no config.yaml.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VertebraError(f"{path} is not valid YAML: {first_line(error)}.") from error
    if not isinstance(content, dict):
        raise VertebraError(f"{path} is not a mapping of option names to values.")
    return content


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as YAML and JSON take them, and as `resolve` and the command line read them again."""
    nested: dict[str, Any] = {} if settings.method is None else {"method": settings.method}
    for name, value in settings.model.items():
        *groups, last = name.split(".")
        part = nested
        for group in groups:
            part = part.setdefault(group, {})
        part[last] = value
    content = {name: value for name, value in vars(settings).items() if name != "method"}
    plain_content: dict[str, Any] = options.plain(content | {"model": nested})
    return plain_content


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name; paths as strings."""
    data = {option.name for option in dataclasses.fields(Data)}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in GROUPS and dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = vars(value)
        if key in GROUPS and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        elif key in GROUPS and value is not None:
            raise VertebraError(f"{key} is {value!r}; it takes a mapping of its options.")
        elif key not in GROUPS:
            flat[f"data.{key}" if key in data else key] = value
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flat.items()}


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings in the group `name`, by their names there."""
    return {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}


def _check_names(flat: Mapping[str, Any], task: str, method: str, augment: type) -> None:
    config = tasks.find(task, method).Config
    model = options.names(config)
    parts = {"data": Data, "augment": augment}
    known = [
        *SCALARS,
        *(f"{part}.{option.name}" for part, kind in parts.items() for option in dataclasses.fields(kind)),
    ]
    tasks.check_options(task, method, _part(flat, "model"), "model.", unknown_ok=True)
    for key in flat:
        if key in known or key.startswith("model."):
            continue
        if key in _with_groups(model):
            raise VertebraError(f"{key} is an option of the model, not of the run: give model={{{key!r}: ...}}.")
        choices = [*known, *(name.removeprefix("data.") for name in known), *model]
        close = nearest(key, choices)
        raise VertebraError(f"{task} training has no setting {key!r}.{close or ' `vertebra train --help` lists all.'}")


def _with_groups(names: Iterable[str]) -> set[str]:
    """Dotted names and the names of the groups that they are in."""
    return {".".join(parts[: i + 1]) for parts in (name.split(".") for name in names) for i in range(len(parts))}


def _built(config: type, name: str, flat: Mapping[str, Any]) -> Any:
    chosen = _part(flat, name)
    _check_types(config, chosen, f"{name}.")
    built = options.build(config, chosen, owner=f"{name}.")
    check_choices(built)
    return built


def _check_types(config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises if an option, by dotted name, has a value of another type than the field of the dataclass."""
    nested = options.groups(config)
    hints = get_type_hints(config)
    for name, value in values.items():
        group, _, rest = name.partition(".")
        if group in nested:
            _check_types(nested[group], {rest: value}, f"{prefix}{group}.")
        elif not _fits(options.as_tuples(value), hints[name]):
            raise VertebraError(f"{prefix}{name} is {value!r}; it takes {_in_words(hints[name])}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: numbers, strings, None, sequences, dataclasses, and unions of these; others always
    fit."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return isinstance(value, tuple({type(choice) for choice in get_args(hint)}))
    if origin is tuple:
        return isinstance(value, tuple)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if hasattr(hint, "from_dict") and isinstance(value, Mapping):
        return True
    return not isinstance(hint, type) or isinstance(value, hint)


def _in_words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(choice) for choice in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", type(None): "None"}
    return words.get(hint, "a sequence" if origin is tuple else getattr(hint, "__name__", str(hint)))
