"""Everything that decides a training run: command-line flags, keys of config.yaml, keywords of `vertebra.train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vertebra import kinds, options, tasks
from vertebra.engine import loggers
from vertebra.errors import VertebraError, check_choices, in_range, nearest, one_of, shown
from vertebra.files import read_yaml
from vertebra.synonyms import option_hint

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of the computation, by Lightning's names."""
GROUPS = ("model", "data", "augment")
"""Settings that hold further ones."""
MAX_COUNT = 1_000_000
"""Of epochs, batches and images at once: what is beyond it is a slip of the keyboard."""
MIN_SIDE, MAX_SIDE = 8, 10_000
"""Of the input, in pixels; 100 million pixels take gigabytes at the first layer."""
PIXELS = ("data.image_size", "data.channels", "data.resize")
"""Settings of images."""
MAX_SEED = 2**32 - 1
"""The largest that NumPy takes."""


@dataclass
class Data:
    """Which images, and how they enter the network."""

    path: str = "shapes"
    """Folder or file in any known format, see `vertebra data`, or `shapes` (built in)."""
    image_size: int = 0
    """Side of the square input, in pixels, or of the shorter side where images keep their shape; 0 takes the default:
    the backbone's own for classification, mostly 224, and 800 for objects."""
    batch_size: int | Literal["auto"] = 32
    """Images per step, over all processes together; `auto` finds the largest power of two that fits into memory."""
    workers: int | None = None
    """Processes that read images; chosen by the number of cores if not given."""
    val_share: float = 0.2
    """Share of each class set apart for validation where the data has no val split, in 0..1."""
    channels: int = 3
    """1 reads images as grey, 3 as RGB."""
    resize: Literal["auto", "crop", "squash", "shortest", "fit", "box"] = "auto"
    """`crop` keeps the aspect ratio and takes the centre; `squash` stretches the whole image to the input; `shortest`
    scales by the shorter side, up to 1.67 times that for the longer; `fit` scales the whole image into the square.
    `auto` takes the first that the task and the backbone support."""

    def __post_init__(self) -> None:
        in_range("data.image_size", self.image_size or None, MIN_SIDE, MAX_SIDE)
        _check_auto("data.batch_size", self.batch_size, 1, MAX_COUNT)
        check_workers(self.workers)
        if not 0 < self.val_share < 1:
            raise VertebraError(f"data.val_share is {self.val_share}; it must lie between 0 and 1.")
        if self.channels not in (1, 3):
            raise VertebraError(f"data.channels is {self.channels}; images are read as 1 (grey) or 3 (RGB).")

    @property
    def known_batch_size(self) -> int:
        """`batch_size`, once the one that `auto` stands for is known."""
        assert isinstance(self.batch_size, int), "not found yet"
        return self.batch_size


def data_options(kind: kinds.Kind) -> type[Data]:
    """Data, with the further options of a kind that has any."""
    if kind.data is None:
        return Data

    def check(self: Any) -> None:
        Data.__post_init__(self)
        kind.data.__post_init__(self)  # type: ignore[union-attr]

    return dataclasses.make_dataclass("Data", (), bases=(Data, kind.data), namespace={"__post_init__": check})


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
    lr: float | Literal["auto"] | None = None
    """Peak learning rate; `auto` finds one in 100 trial steps. With another optimizer than the default one: 0.02 for
    sgd, 0.001 for adamw."""
    base_batch_size: int = 0
    """Images per step that `lr` is for: with others in data.batch_size * accumulate, it is scaled in proportion. 0 does
    not scale it."""
    final_lr_ratio: float = 0.01
    """The cosine schedule ends at lr * final_lr_ratio."""
    momentum: float = 0.9
    """Momentum of sgd; adamw's first beta."""
    weight_decay: float | None = None
    """On weights of two or more dimensions. With another optimizer than the default one: 0.0001 for sgd, 0.05 for
    adamw."""
    warmup: float = 1.0
    """Epochs in which the learning rate rises linearly to lr."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer away from the output, in 0..1; 1 gives all layers the same rate."""
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
    device: str = "auto"
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, several such as cuda:0,1, or `auto`: every GPU, or else the CPU."""
    processes: int = 0
    """Processes, one per GPU, or several on a CPU; 0 takes one per device."""
    seed: int = 0
    """Seed of all random numbers; the same seed gives the same run."""
    logger: tuple[str, ...] = ("tensorboard",)
    """Where metrics are logged: tensorboard, csv, wandb, mlflow, or several such as tensorboard,csv."""
    output: str | None = None
    """Folder for the results; runs/TASK-BACKBONE-NUMBER if not given."""
    resume: str | None = None
    """Run folder (or its last.ckpt) of a stopped run to continue."""

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "val_every"):
            in_range(name, getattr(self, name), 1, MAX_COUNT)
        for name in ("warmup", "patience", "processes", "base_batch_size"):
            in_range(name, getattr(self, name), 0, MAX_COUNT)
        _check_auto("lr", self.lr, 0)
        for name in ("weight_decay", "clip"):
            in_range(name, getattr(self, name), 0)
        for name in ("ema", "momentum"):
            in_range(name, getattr(self, name), 0, 0.999999)
        for name in ("final_lr_ratio", "layer_decay"):
            in_range(name, getattr(self, name), 0, 1)
        in_range("seed", self.seed, 0, MAX_SEED)
        for name in self.logger:
            one_of("logger", name, loggers.names())

    @property
    def base_lr(self) -> float:
        """`lr`, or the default of the optimizer where it is None, or `auto` and not found yet."""
        return {"sgd": 0.02, "adamw": 0.001}[self.optimizer] if self.lr in (None, "auto") else float(self.lr)

    @property
    def peak_lr(self) -> float:
        """`base_lr`, scaled to the images per step."""
        if not self.base_batch_size:
            return self.base_lr
        return self.base_lr * self.data.known_batch_size * self.accumulate / self.base_batch_size

    @property
    def decay(self) -> float:
        return self.weight_decay if self.weight_decay is not None else {"sgd": 1e-4, "adamw": 0.05}[self.optimizer]


def check_workers(workers: int | None) -> None:
    """Raises VertebraError if there are more processes that read images than a machine can start."""
    in_range("data.workers", workers, 0, 16 * (os.cpu_count() or 1))


def _check_auto(name: str, value: float | str | None, low: float, high: float | None = None) -> None:
    """Raises if a setting is neither `auto` nor in low..high."""
    if isinstance(value, str) and value != "auto":
        raise VertebraError(f"{name} is {shown(value)}; it must be a number or auto.")
    in_range(name, None if isinstance(value, str) else value, low, high)


SCALARS = tuple(name for name in Settings.__dataclass_fields__ if name not in ("task", "method", *GROUPS))
"""Settings that hold a value of their own."""


def resolve(task: str, method: str | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a run: default < the method's RECIPE < the resumed run's config.yaml < what the user gave.

    With another optimizer than the recipe's, the recipe's learning rate does not apply. A learning rate that the user
    gave is not scaled by the recipe's base_batch_size.

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
    data = data_options(kinds.find(tasks.find(task).MODEL.kind))
    layers = [_flat(overrides, data)]
    if resume := layers[0].get("resume"):
        layers.insert(0, _flat(run_config(resume), data))
        check_resumed_method(resume, task, method or layers[1].get("model.method"))
    chosen = {key: value for layer in layers for key, value in layer.items()}
    method = method or chosen.get("model.method")
    module = tasks.find(task, method)
    kind = kinds.find(module.MODEL.kind)
    augment = kind.augment
    recipe = _flat(module.RECIPE, data)
    usual = recipe.get("optimizer", Settings.optimizer)
    if chosen.get("optimizer", usual) != usual:
        recipe.pop("lr", None)
    if "lr" in chosen or "lr" not in recipe:
        recipe.pop("base_batch_size", None)
    merged: dict[str, Any] = {}
    for layer in (recipe, *layers):
        named = {key: value for key, value in layer.items() if key not in ("task", "method", "model.method")}
        _check_names(named, task, method or tasks.default_method(task), data, augment)
        model = options.flatten(module.Config, _part(named, "model"))
        merged |= {key: value for key, value in named.items() if not key.startswith("model.")}
        merged |= {f"model.{name}": value for name, value in model.items()}
    scalars = {key: options.as_tuples(value) for key, value in merged.items() if key in SCALARS}
    options.check_types(Settings, scalars)
    options.build(module.Config, _part(merged, "model"), owner="model.")  # raises if a value is refused
    settings = Settings(
        task,
        method or (None if merged.get("weights") else tasks.default_method(task)),
        model=_part(merged, "model"),
        data=_built(data, "data", merged),
        augment=_built(augment, "augment", merged),
        **scalars,
    )
    check_choices(settings)
    if settings.data.resize != "auto":
        one_of("data.resize", settings.data.resize, kind.resize_modes)
    for name in unused(task, method):
        holder, option = (settings.data, name.removeprefix("data.")) if name in PIXELS else (settings, name)
        if getattr(holder, option) != getattr(type(holder), option):
            raise VertebraError(f"{name} has no effect in {task}: leave it out.")
    return settings


def unused(task: str, method: str | None = None) -> list[str]:
    """Settings that have no effect on a method: those of the backbone if it has none, those of images if it reads none,
    and `balance` if its kind weighs no classes."""
    module = tasks.find(task, method)
    known = set(options.names(module.Config))
    kind = kinds.find(module.MODEL.kind)
    names = [] if kind.balancing and kind.balancing <= known else ["balance"]
    if "backbone" not in known:
        names += ["freeze_backbone", "layer_decay", "checkpointing"]
    return names if kind.reads_images else [*names, *PIXELS]


def check_resumed_method(resume: str, task: str, method: str | None) -> None:
    """Raises VertebraError if the run to resume is of another task, or of another method where one is chosen."""
    before = _flat(run_config(resume), Data)
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
    content, _ = read_yaml(path)
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


def _flat(settings: Mapping[str, Any], data_type: type[Data]) -> dict[str, Any]:
    """Settings by dotted name; paths as strings."""
    data = {option.name for option in dataclasses.fields(data_type)}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in GROUPS and dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = vars(value)
        if key in GROUPS and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        elif key in GROUPS and value is not None:
            raise VertebraError(f"{key} is {shown(value)}; it takes a mapping of its options.")
        elif key not in GROUPS:
            flat[f"data.{key}" if key in data else key] = value
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flat.items()}


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings in the group `name`, by their names there."""
    return {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}


def _check_names(flat: Mapping[str, Any], task: str, method: str, data: type, augment: type) -> None:
    config = tasks.find(task, method).Config
    model = options.names(config)
    parts = {"data": data, "augment": augment}
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
        hint = option_hint("train", key, [*known, *(f"model.{name}" for name in model)]) or nearest(key, choices)
        raise VertebraError(
            f"{task} training has no setting {shown(key)}.{hint or ' `vertebra train --help` lists all.'}"
        )


def _with_groups(names: Iterable[str]) -> set[str]:
    """Dotted names and the names of the groups that they are in."""
    return {".".join(parts[: i + 1]) for parts in (name.split(".") for name in names) for i in range(len(parts))}


def _built(config: type, name: str, flat: Mapping[str, Any]) -> Any:
    built = options.build(config, _part(flat, name), owner=f"{name}.")
    check_choices(built)
    return built
