"""Everything that decides a training run: command-line flags, keys of config.yaml, keywords of `vertebra.train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from vertebra import kinds, options, tasks
from vertebra.engine import loggers, recipes
from vertebra.errors import VertebraError, check_choices, in_range, nearest, one_of, shown
from vertebra.files import read_yaml
from vertebra.synonyms import option_hint

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of the computation, by Lightning's names."""
GROUPS = ("model", "data", "augment", "distill")
"""Settings that hold further ones."""
MAX_COUNT = 1_000_000
"""Of epochs, batches and images at once: what is beyond it is a slip of the keyboard."""
MIN_SIDE, MAX_SIDE = 8, 10_000
"""Of the input, in pixels; 100 million pixels take gigabytes at the first layer."""
PIXELS = ("data.image_size", "data.channels", "data.resize", "data.repeats")
"""Settings of images."""
MAX_SEED = 2**32 - 1
"""The largest that NumPy takes."""
DEFAULT_LR = {"sgd": 0.02, "adamw": 0.001, "adam": 0.001, "rmsprop": 0.002}
DEFAULT_DECAY = {"sgd": 1e-4, "adamw": 0.05, "adam": 0.0, "rmsprop": 1e-5}
"""Weight decay."""
OWNERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "schedule": {
        "final_lr_ratio": ("cosine", "poly", "one_cycle"),
        "step_epochs": ("step",),
        "step_gamma": ("step",),
        "poly_power": ("poly",),
        "one_cycle_rise": ("one_cycle",),
    },
    "optimizer": {"nesterov": ("sgd",)},
}
"""By setting, the settings that have an effect with some of its values alone, and those values."""


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
    repeats: int = 1
    """Times that an image comes in a batch, each time augmented anew; an epoch keeps its number of steps."""
    channels: int = 3
    """1 reads images as grey, 3 as RGB."""
    resize: Literal["auto", "crop", "squash", "shortest", "fit", "box"] = "auto"
    """`crop` keeps the aspect ratio and takes the centre; `squash` stretches the whole image to the input; `shortest`
    scales by the shorter side, up to 1.67 times that for the longer; `fit` scales the whole image into the square.
    `auto` takes the first that the task and the backbone support."""

    def __post_init__(self) -> None:
        in_range("data.image_size", self.image_size or None, MIN_SIDE, MAX_SIDE)
        _check_word("data.batch_size", self.batch_size, "auto", 1, MAX_COUNT)
        check_workers(self.workers)
        in_range("data.repeats", self.repeats, 1, 1000)
        if not 0 < self.val_share < 1:
            raise VertebraError(f"data.val_share is {self.val_share}; it must lie between 0 and 1.")
        if self.channels not in (1, 3):
            raise VertebraError(f"data.channels is {self.channels}; images are read as 1 (grey) or 3 (RGB).")

    @property
    def known_batch_size(self) -> int:
        """`batch_size`, once the one that `auto` stands for is known."""
        assert isinstance(self.batch_size, int), "not found yet"
        return self.batch_size


@cache
def data_options(kind: kinds.Kind) -> type[Data]:
    """Data, with the further options of a kind that has any."""
    if kind.data is None:
        return Data

    def check(self: Any) -> None:
        Data.__post_init__(self)
        kind.data.__post_init__(self)  # type: ignore[union-attr]

    return dataclasses.make_dataclass("Data", (), bases=(Data, kind.data), namespace={"__post_init__": check})


@dataclass
class Distill:
    """What is learned of a teacher, and how; with `teacher`."""

    loss: Literal["soft", "hard", "ssld", "features"] = "soft"
    """`soft` learns the teacher's probabilities beside the labels, `hard` its top class beside the labels, `ssld` its
    probabilities alone, without labels, and `features` its maps beside what the method learns."""
    weight: float | None = None
    """Weight of what is learned of the teacher: a share in 0..1 for soft and hard (default: 0.5), where the labels have
    the rest; a factor for features (default: 1)."""
    temperature: float | None = None
    """Of soft: the logits of both are divided by it; default: 1."""
    unlabelled: str | None = None
    """Of soft, hard and ssld, for classes of whole images: folder of further images, without labels, which learn of the
    teacher alone."""
    unlabelled_batch_size: int | None = None
    """Unlabelled images per step, over all processes together; default: as many as in data.batch_size."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "soft": ("weight", "temperature", "unlabelled", "unlabelled_batch_size"),
        "hard": ("weight", "unlabelled", "unlabelled_batch_size"),
        "ssld": ("unlabelled", "unlabelled_batch_size"),
        "features": ("weight",),
    }
    """Those that each loss uses."""

    def __post_init__(self) -> None:
        one_of("distill.loss", self.loss, self.OPTIONS)
        for option in dataclasses.fields(self)[1:]:
            if getattr(self, option.name) is not None and option.name not in self.OPTIONS[self.loss]:
                others = [loss for loss, names in self.OPTIONS.items() if option.name in names]
                raise VertebraError(
                    f"distill.{option.name} has no effect with distill.loss={self.loss}: it is for {', '.join(others)}."
                )
        in_range("distill.weight", self.weight, 0, 1 if self.loss != "features" else 1_000_000)
        in_range("distill.temperature", self.temperature, 0.01, 1000)
        in_range("distill.unlabelled_batch_size", self.unlabelled_batch_size, 1, MAX_COUNT)
        if self.unlabelled_batch_size and not self.unlabelled:
            raise VertebraError("distill.unlabelled_batch_size needs distill.unlabelled, the folder of the images.")


@dataclass
class Settings:
    """A training run."""

    FIXED: ClassVar[tuple[str, ...]] = ("task", "optimizer", "freeze", "unfreeze_every", "layer_decay")
    """Those that a resumed run cannot change, besides those of the groups."""

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
    distill: Distill = field(default_factory=Distill)
    """What is learned of the teacher, and how."""
    recipe: str | None = None
    """Options to start from: the name of a published recipe, see `vertebra recipes`, or a YAML file of one's own."""
    epochs: int = 30
    """Passes over the training images."""
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop"] = "sgd"
    """`sgd` with momentum, `adamw`, `adam` whose weight decay is added to the gradient, or `rmsprop`."""
    lr: float | Literal["auto"] | None = None
    """Peak learning rate; `auto` finds one in 100 trial steps. With another optimizer than the default one: 0.02 for
    sgd, 0.001 for adamw and adam, 0.002 for rmsprop."""
    base_batch_size: int = 0
    """Images per step that `lr` is for: with others in data.batch_size * accumulate, it is scaled in proportion. 0 does
    not scale it."""
    schedule: Literal["cosine", "step", "poly", "one_cycle", "constant", "inverse_sqrt"] = "cosine"
    """How the learning rate goes on after warmup: along half a cosine, in steps, by a power of the steps that are left,
    up and down again, not at all, or by the inverse square root of the step."""
    final_lr_ratio: float = 0.01
    """The schedules cosine, poly and one_cycle end at lr * final_lr_ratio."""
    step_epochs: tuple[float, ...] = ()
    """Schedule step: epochs, counted from the start of training, after which the learning rate is multiplied by
    step_gamma."""
    step_gamma: float = 0.1
    """Schedule step: factor on the learning rate."""
    poly_power: float = 0.9
    """Schedule poly: power of the share of steps that are left; 1 is a straight line."""
    one_cycle_rise: float = 0.3
    """Schedule one_cycle: share of the steps in which the learning rate rises from lr / 25 to lr."""
    momentum: float = 0.9
    """Momentum of sgd and rmsprop; first beta of adamw and adam."""
    nesterov: bool = True
    """Nesterov momentum, for sgd."""
    weight_decay: float | None = None
    """On weights of two or more dimensions. With another optimizer than the default one: 0.0001 for sgd, 0.05 for
    adamw, 0 for adam, 0.00001 for rmsprop."""
    warmup: float = 1.0
    """Epochs in which the learning rate rises linearly to the schedule's first one."""
    warmup_steps: int = 0
    """Steps of the optimizer in which it does so, in place of the epochs of warmup."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer away from the output, in 0..1; 1 gives all layers the same rate."""
    freeze: int | Literal["all"] = 0
    """Stages of the backbone that are not trained, from the input on; `all` trains the head alone."""
    unfreeze_every: int = 0
    """Epochs after which one more stage of the backbone is trained, from the output to the input; at first the head
    alone is. 0 trains all of them from the start."""
    progressive: int = 0
    """Stages of equal length in which the image size, RandAugment's magnitude, mixup's alpha and dropout rise to what
    is set; 0 trains with these from the start."""
    progressive_size: int = 0
    """Side in pixels of the images of the first stage; 0 takes 0.43 times the final one."""
    weights: str | None = None
    """Checkpoint to start from: a file, a folder, a published name or a Hub name; what does not fit is listed."""
    source: str | None = None
    """Library whose tensor names `weights` has, such as `mmdet/caffe`; recognised if not given."""
    teacher: str | None = None
    """Model to learn from as well: a checkpoint as `weights` takes it, or a folder that `vertebra label` wrote; the
    options are those of `distill`."""
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
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What several processes hold of the model: all of it (`ddp`), or a part each of its parameters, gradients and
    optimiser's state (`fsdp`, FSDP2)."""
    timeout: float = 30.0
    """Minutes that the processes wait for one another, at the start and in each step."""
    seed: int = 0
    """Seed of all random numbers; the same seed gives the same run."""
    logger: tuple[str, ...] = ("tensorboard",)
    """Where metrics are logged: tensorboard, csv, wandb, mlflow, or several such as tensorboard,csv."""
    output: str | None = None
    """Folder for the results; runs/TASK-BACKBONE-NUMBER if not given."""
    resume: str | None = None
    """Run folder (or its last.ckpt) of a stopped run to continue."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("epochs", "accumulate", "val_every"):
            in_range(name, getattr(self, name), 1, MAX_COUNT)
        for name in ("warmup", "warmup_steps", "unfreeze_every", "patience", "processes", "base_batch_size"):
            in_range(name, getattr(self, name), 0, MAX_COUNT)
        _check_word("lr", self.lr, "auto", 0)
        _check_word("freeze", self.freeze, "all", 0, MAX_COUNT)
        for name in ("weight_decay", "clip"):
            in_range(name, getattr(self, name), 0)
        for name in ("ema", "momentum"):
            in_range(name, getattr(self, name), 0, 0.999999)
        for name in ("final_lr_ratio", "step_gamma", "one_cycle_rise", "layer_decay"):
            in_range(name, getattr(self, name), 0, 1)
        in_range("progressive", self.progressive, 0, MAX_COUNT)
        in_range("progressive_size", self.progressive_size or None, MIN_SIDE, MAX_SIDE)
        in_range("poly_power", self.poly_power, 0, 100)
        for epoch in self.step_epochs:
            in_range("step_epochs", epoch, 0, MAX_COUNT)
        in_range("timeout", self.timeout, 0.01, 10_000)
        in_range("seed", self.seed, 0, MAX_SEED)
        for name in self.logger:
            one_of("logger", name, loggers.names())
        for choice, owners in OWNERS.items():
            for name, values in owners.items():
                if getattr(self, choice) not in values and getattr(self, name) != getattr(Settings, name):
                    raise VertebraError(
                        f"{name} has no effect with {choice} {getattr(self, choice)}: leave it out, or choose {choice} "
                        f"{' or '.join(values)}."
                    )
        if self.schedule == "step" and not self.step_epochs:
            raise VertebraError("schedule step needs step_epochs, such as [30, 60, 80].")
        if self.freeze == "all" and self.unfreeze_every:
            raise VertebraError("unfreeze_every has no effect with freeze all, which trains the head alone.")
        if self.progressive == 1 or self.progressive > self.epochs:
            raise VertebraError(
                f"progressive is {self.progressive}; it must be 0, or the number of two or more stages, which an epoch "
                f"each at least, of {self.epochs}, can be given."
            )
        if self.progressive_size and not self.progressive:
            raise VertebraError("progressive_size has no effect without progressive, the number of stages.")
        if self.warmup and self.warmup_steps:
            raise VertebraError("warmup, in epochs, and warmup_steps are both given; give one of them.")
        if self.teacher is None and self.distill != Distill():
            name, value = next(iter(options.changed(self.distill, Distill()).items()))
            raise VertebraError(f"distill.{name} is {shown(value)}, and there is no teacher: give --teacher=FILE too.")

    @property
    def left_out(self) -> list[str]:
        """Settings without an effect on the run, which its config.yaml does not list."""
        return unused(self.task, self.method)

    @property
    def base_lr(self) -> float:
        """`lr`, or the default of the optimizer where it is None, or `auto` and not found yet."""
        return DEFAULT_LR[self.optimizer] if self.lr in (None, "auto") else float(self.lr)

    @property
    def peak_lr(self) -> float:
        """`base_lr`, scaled to the images per step."""
        if not self.base_batch_size:
            return self.base_lr
        return self.base_lr * self.data.known_batch_size * self.accumulate / self.base_batch_size

    @property
    def decay(self) -> float:
        return self.weight_decay if self.weight_decay is not None else DEFAULT_DECAY[self.optimizer]


def check_workers(workers: int | None) -> None:
    """Raises VertebraError if there are more processes that read images than a machine can start."""
    in_range("data.workers", workers, 0, 16 * (os.cpu_count() or 1))


def _check_word(name: str, value: float | str | None, word: str, low: float, high: float | None = None) -> None:
    """Raises if a setting is neither `word` nor in low..high."""
    if isinstance(value, str) and value != word:
        raise VertebraError(f"{name} is {shown(value)}; it must be a number or {word}.")
    in_range(name, None if isinstance(value, str) else value, low, high)


SCALARS = tuple(field.name for field in dataclasses.fields(Settings) if field.name not in ("task", "method", *GROUPS))
"""Settings that hold a value of their own."""


def resolve(task: str, method: str | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a run: default < the method's RECIPE < `recipe` < what the user gave.

    Where a run is resumed, its config.yaml takes the place of `recipe`. What does not apply with a later layer is left
    out of an earlier one, see `superseded`.

    Args:
        task: its name.
        method: its name; `model.method` of the settings or the recipe if None. Without either it is left to the
            checkpoint in `weights`, or is the task's default.
        overrides: fields of Settings; those of `model`, `data`, `augment` and `distill` as mappings or by dotted name
            (`data.batch_size`); those of Data also by their name alone.

    Raises:
        VertebraError: for a task, method, setting or option that does not exist (with the nearest that does), and a
            value of another type.
    """
    data = data_options(kinds.find(tasks.find(task).MODEL.kind))
    layers = [_flat(overrides, data)]
    recipe, resume = (layers[0].get(name) for name in ("recipe", "resume"))
    if recipe and resume:
        raise VertebraError("recipe is for a new run: one that is resumed has its options in its config.yaml.")
    if recipe:
        layers.insert(0, _flat(_checked_recipe(recipe, task, method or layers[0].get("model.method")), data))
    if resume:
        layers.insert(0, _flat(run_config(resume), data))
        check_resumed_method(resume, task, method or layers[1].get("model.method"))
    chosen = {key: value for layer in layers for key, value in layer.items()}
    method = method or chosen.get("model.method")
    module = tasks.find(task, method)
    kind = kinds.find(module.MODEL.kind)
    augment = kind.augment
    merged: dict[str, Any] = {}
    for layer in (_flat(module.RECIPE, data), *layers):
        named = {key: value for key, value in layer.items() if key not in ("task", "method", "model.method")}
        _check_names(named, task, method or tasks.default_method(task), data, augment)
        model = options.flatten(module.Config, _part(named, "model"))
        for key in superseded(merged, named):
            del merged[key]
        merged |= {key: value for key, value in named.items() if not key.startswith("model.")}
        merged |= {f"model.{name}": value for name, value in model.items()}
    if merged.get("warmup_steps"):
        merged.setdefault("warmup", 0.0)
    scalars = {key: options.as_tuples(value) for key, value in merged.items() if key in SCALARS}
    options.check_types(Settings, scalars)
    options.build(module.Config, _part(merged, "model"), owner="model.")  # raises if a value is refused
    settings = Settings(
        task,
        method or (None if merged.get("weights") else tasks.default_method(task)),
        model=_part(merged, "model"),
        data=_built(data, "data", merged),
        augment=_built(augment, "augment", merged),
        distill=_built(Distill, "distill", merged),
        **scalars,
    )
    if settings.data.resize != "auto":
        one_of("data.resize", settings.data.resize, kind.resize_modes)
    for name in unused(task, method):
        holder, option = (settings.data, name.removeprefix("data.")) if name in PIXELS else (settings, name)
        if getattr(holder, option) != getattr(type(holder), option):
            raise VertebraError(f"{name} has no effect in {task}: leave it out.")
    return settings


def superseded(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> set[str]:
    """Settings of a lower layer, by dotted name, that do not apply with those of an upper one.

    With another optimizer, its own learning rate and weight decay do; with another schedule, its own options. A
    learning rate is not scaled by the base_batch_size of another. Of the two ways to give warmup, the later counts.
    """
    names: set[str] = set()
    for choice, owners in OWNERS.items():
        if upper.get(choice, before := lower.get(choice, getattr(Settings, choice))) != before:
            names |= owners.keys() | ({"lr", "weight_decay"} if choice == "optimizer" else set())
    if "lr" in upper or "lr" in names:
        names.add("base_batch_size")
    if not upper.get("progressive", 1):
        names.add("progressive_size")
    if "warmup" in upper:
        names.add("warmup_steps")
    if "warmup_steps" in upper:
        names.add("warmup")
    return names & lower.keys() - upper.keys()


def unused(task: str, method: str | None = None) -> list[str]:
    """Settings that have no effect on a method: those of the backbone if it has none, those of images if it reads none,
    `balance` if its kind weighs no classes, and progressive learning if its kind has none."""
    module = tasks.find(task, method)
    known = set(options.names(module.Config))
    kind = kinds.find(module.MODEL.kind)
    names = [] if kind.balancing and kind.balancing <= known else ["balance"]
    if not kind.progressive:
        names += ["progressive", "progressive_size"]
    if "backbone" not in known:
        names += ["freeze", "unfreeze_every", "layer_decay", "checkpointing"]
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


def _checked_recipe(recipe: Any, task: str, method: str | None) -> dict[str, Any]:
    """The options of a recipe. Raises VertebraError if it is for another task, or could not be trained by itself."""
    options.check_types(Settings, {"recipe": recipe})
    content = recipes.read(recipe)
    if content.get("task", task) != task:
        raise VertebraError(f"recipe {recipe} is for task {shown(content['task'])}, not {task!r}.")
    try:
        resolve(task, method, content)
    except VertebraError as error:
        raise VertebraError(f"recipe {recipe}: {error}") from error
    return content


def _part(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings in the group `name`, by their names there."""
    return {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}


def _check_names(flat: Mapping[str, Any], task: str, method: str, data: type, augment: type) -> None:
    config = tasks.find(task, method).Config
    model = options.names(config)
    parts = {"data": data, "augment": augment, "distill": Distill}
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
