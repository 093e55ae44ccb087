"""A training run from its settings to a folder that somebody else can use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

import vertebra
from vertebra import kinds, options, tasks
from vertebra.data.augment.custom import Transforms
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.loader import EndlessLoader, loader
from vertebra.data.reading import Source
from vertebra.engine import checkpoint, distill, progressive, sharding
from vertebra.engine import loggers as named_loggers
from vertebra.engine import trainer as trainers
from vertebra.engine.devices import is_first_process, run_devices
from vertebra.engine.evaluate import evaluate
from vertebra.engine.finders import replace_auto
from vertebra.engine.freezing import Freezing
from vertebra.engine.progressive import GrowingLoader
from vertebra.engine.resume import Facts, StoppedRun
from vertebra.engine.settings import Settings, plain
from vertebra.engine.trainee import RunHistory, Trainee, write_config
from vertebra.engine.trainer import Echo
from vertebra.errors import VertebraError, escaped
from vertebra.kinds import Kind
from vertebra.metrics.evaluation import Evaluation
from vertebra.nn.meta import without_parameters
from vertebra.structures import Preprocess
from vertebra.tasks import Plan, Task
from vertebra.viz import report


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    """Holds config.yaml (which reproduces the run), best.safetensors (which `vertebra.load` reads), last.ckpt (to
    resume from), metrics.csv, tensorboard/, evaluation.json and report.html."""
    best: Path
    """The file of the best model."""
    epoch: int
    """The epoch that the best model is from, counted from 1."""
    metrics: dict[str, Any] = field(repr=False)
    """Metrics of the best model on the val split."""
    history: list[dict[str, float]] = field(repr=False)
    """Losses, metrics, learning rate and seconds of each epoch, as in metrics.csv."""
    stopped: str = ""
    """Why training ended before its last epoch, such as `patience`; empty if it did not."""

    def load(self, *, device: str | None = None, precision: str = "32-true") -> Any:
        """The Predictor of the best model; arguments as in `vertebra.load`."""
        return vertebra.load(self.best, device=device, precision=precision)


def train(
    settings: Settings,
    data: Source | None = None,
    *,
    transforms: Transforms | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Run:
    """Trains, saves the best model, evaluates it and writes the report.

    Args:
        settings: of the run, as `resolve` makes them.
        data: a Dataset of (image, Target), or a mapping of split names to Datasets, in place of `settings.data.path`.
        transforms: of training images and their targets, before the augmentation; see `CustomTransform`.
        callbacks: further ones.
        loggers: those beside the ones named in the settings.

    Raises:
        VertebraError: for every mistake of the user.
    """
    check_machine(settings)
    trainers.silence_lightning()
    echo = print if is_first_process() else silent
    kind = kinds.find(tasks.find(settings.task, settings.method).MODEL.kind)
    catalogue = open_catalogue(settings, data, kind)
    if unlabelled := distill.unlabelled_samples(settings, kind, catalogue.splits.get("val", [])):
        catalogue.splits["unlabelled"] = unlabelled
        check_unlabelled(settings, catalogue, len(unlabelled))
    stopped = StoppedRun.open(settings.resume) if settings.resume else None
    if stopped:
        stopped.check_data(kind, catalogue, settings.data)
    L.seed_everything(settings.seed, verbose=False)
    plan = make_plan(settings, kind, catalogue)
    model = options.flatten(type(plan.config), vars(plan.config))
    settings = replace(settings, method=_name(plan.module), model=model)
    if stopped:
        stopped.check_settings(settings, plan)
    task = _build(settings, plan, kind, echo)
    samples = make_samples(settings, kind, catalogue, task)
    written = stopped.folder if stopped else settings.output
    distiller = distill.create(
        settings,
        task,
        [*samples["train"], *unlabelled],
        written=Path(written) / "best.safetensors" if written else None,
        mixing=kind.batch_transform(settings.augment, len(catalogue.classes)) is not None,
    )
    folder = stopped.folder if stopped else new_folder(settings, plan.config)
    _announce(settings, kind, catalogue, task, folder, echo)
    if distiller:
        by_position = isinstance(distiller, distill.LogitDistiller) and not distiller.teacher.named
        note = "; its classes have no names and are taken to be those of the data in their order" if by_position else ""
        echo(f"teacher {settings.teacher}: distill.loss={settings.distill.loss}{note}")
    batches = partial(
        training_batches, samples=samples["train"], task=task, kind=kind, catalogue=catalogue, transforms=transforms
    )
    if "auto" in (settings.lr, settings.data.batch_size):
        settings = replace_auto(settings, task, batches, len(samples["train"]), folder, echo, distiller)
        write_config(settings, folder)
    loaders = (
        _growing(settings, task, partial(batches, settings), echo),
        validation_batches(settings, samples["val"], task, kind, catalogue),
    )
    if settings.base_batch_size:
        images = settings.data.known_batch_size * settings.accumulate
        base = f"{settings.base_lr:g} is for {settings.base_batch_size} images per step"
        echo(f"lr {settings.peak_lr:g}: {base}, scaled to {images}")
    history = RunHistory(folder, echo, origin(settings, data, kind))
    trainer = trainers.create(settings, task, folder, history, [Facts(settings, task, catalogue), *callbacks], loggers)
    trainee = Trainee(task, settings, distiller)
    trainers.fit(trainer, trainee, loaders, folder, stopped, echo)
    best = history.best_epoch()
    metrics = best["metrics"]
    if trainer.is_global_zero:
        metrics = _finish(settings, kind, catalogue, samples["val"], folder, history, trainee, echo).metrics
    return Run(folder, folder / "best.safetensors", best["epoch"], metrics, history.history, history.stopped)


def silent(_: str) -> None:
    pass


# -- data and model


def open_catalogue(settings: Settings, data: Source | None, kind: Kind) -> Catalogue:
    path = settings.data.path if data is None else data
    catalogue = kind.open(path, val_share=settings.data.val_share, seed=settings.seed)
    catalogue.skipped(strict=settings.strict)
    return catalogue


def make_samples(settings: Settings, kind: Kind, catalogue: Catalogue, task: Task) -> dict[str, list[Sample]]:
    """What is learned and what is validated on."""
    devices = run_devices(settings)
    device = devices[int(os.environ.get("LOCAL_RANK", 0)) % len(devices)]
    samples = {
        split: kind.samples(
            catalogue,
            split,
            task,
            training=split == "train",
            seed=settings.seed,
            data=settings.data,
            load=lambda path: checkpoint.load(path, device=device)[0],
        )
        for split in ("train", "val")
    }
    catalogue.skipped(strict=settings.strict)
    return samples


def origin(settings: Settings, data: Source | None, kind: Kind) -> dict[str, Any]:
    """The data of the run for the checkpoint's description; empty for Datasets, which no later process can open."""
    if data is not None:
        return {}
    further = () if kind.data is None else [field.name for field in fields(kind.data)]
    described = {name: options.plain(getattr(settings.data, name)) for name in ("path", "val_share", *further)}
    return {"data": {**described, "seed": settings.seed}}


def make_plan(settings: Settings, kind: Kind, catalogue: Catalogue) -> Plan:
    """The model's options: those that the data decides win over those of the settings."""
    assumed = tasks.find(settings.task, settings.method)
    known = set(options.names(assumed.Config))
    decided = kind.model_options(catalogue, settings.balance, settings.data)
    decided = {name: value for name, value in decided.items() if name in known}
    for name in options.differing(options.build(assumed.Config, settings.model), decided):
        if not settings.resume and name in options.flatten(assumed.Config, settings.model):
            raise VertebraError(f"model.{name} differs from the data, which decides it: leave it out.")
    plan = tasks.plan(
        settings.task,
        method=settings.method,
        weights=settings.weights,
        source=settings.source,
        classes=catalogue.classes,
        **settings.model | decided,
    )
    if plan.module.RECIPE != assumed.RECIPE:
        raise VertebraError(
            f"{settings.weights} is a checkpoint of {_name(plan.module)}, which is trained with other settings than "
            f"{_name(assumed)}: choose model.method={_name(plan.module)}, or model.method={_name(assumed)}."
        )
    return plan


def _name(method: ModuleType) -> str:
    return method.__name__.rpartition(".")[2]


def _build(settings: Settings, plan: Plan, kind: Kind, echo: Echo) -> Task:
    build = partial(plan.build, make_preprocess(settings, plan, kind.resize_modes))
    # Of a model that is divided among processes, the first one hands out the values.
    task = build() if settings.strategy != "fsdp" or is_first_process() else without_parameters(build)
    if task.report:
        echo(str(task.report))
    Freezing(task, settings)  # before anything is written
    progressive.check(task, settings)
    return task


def make_preprocess(settings: Settings, plan: Plan, modes: Sequence[str]) -> Preprocess:
    """The plan's preprocessing at the size, channels and way of resizing of the settings."""
    data, known = settings.data, plan.preprocess
    # The size that a checkpoint was trained with is not taken over: the model's default is.
    usual = plan.module.MODEL.default_preprocess(None, plan.config)
    extra = plan.module.MODEL.extra_channels
    if known.channels != data.channels + extra:
        mean, std = ((0.449,), (0.226,)) if data.channels == 1 else (Preprocess.mean, Preprocess.std)
        known = replace(known, mean=(*mean, *(0.5,) * extra), std=(*std, *(0.5,) * extra))
    resize: str = data.resize
    if resize == "auto":
        resize = usual.resize if usual.resize in modes else modes[0]
    side = data.image_size or usual.size[0]
    keeps = resize == usual.resize and resize in ("shortest", "box")  # the ratio of the two numbers
    longest = round(side * usual.size[1] / usual.size[0]) if keeps else side
    return replace(known, size=(side, longest), crop=1.0, resize=resize)


def _growing(
    settings: Settings, task: Task, batches: Callable[..., EndlessLoader], echo: Echo
) -> EndlessLoader | GrowingLoader:
    """The training batches; those of progressive learning say the image size of each stage."""
    if not settings.progressive:
        return batches()

    def make(share: float) -> EndlessLoader:
        height, width = progressive.preprocess(task.preprocess, settings, share).size
        echo(f"images of {width} x {height} pixels")
        return batches(share=share)

    return GrowingLoader(make, partial(progressive.share, settings))


def training_batches(
    settings: Settings,
    *,
    share: float = 1.0,
    samples: Sequence[Sample],
    task: Task,
    kind: Kind,
    catalogue: Catalogue,
    transforms: Transforms | None,
) -> EndlessLoader:
    batches = loader(
        samples,
        progressive.preprocess(task.preprocess, settings, share),
        kind,
        num_classes=len(catalogue.classes),
        batch_size=settings.data.known_batch_size,
        repeats=settings.data.repeats,
        workers=settings.data.workers,
        seed=settings.seed,
        augment=settings.augment if share == 1 else kind.eased(settings.augment, share),
        transforms=transforms,
        keypoints=catalogue.keypoints,
        unlabelled=catalogue.splits.get("unlabelled", ()),
        unlabelled_batch_size=settings.distill.unlabelled_batch_size,
    )
    assert isinstance(batches, EndlessLoader)
    return batches


def validation_batches(
    settings: Settings, samples: Sequence[Sample], task: Task, kind: Kind, catalogue: Catalogue
) -> Iterable:
    return loader(
        samples,
        task.preprocess,
        kind,
        num_classes=len(catalogue.classes),
        batch_size=settings.data.known_batch_size,
        workers=settings.data.workers,
    )


# -- the run folder


def new_folder(settings: Settings, config: Any) -> Path:
    """A new run folder, which holds config.yaml; the first process makes it."""
    first = is_first_process()
    if settings.output:
        folder = Path(settings.output)
        if first and (folder / "last.ckpt").exists():
            raise VertebraError(
                f"{folder} holds a run already: resume it with --resume={folder}, or choose another --output."
            )
    else:
        stem = f"{settings.task}-{getattr(config, 'backbone', settings.method)}"
        stem = stem.replace(":", "-")  # of a library's backbone; not every file system has it
        number = 1
        while first and Path("runs", f"{stem}-{number}").exists():
            number += 1
        folder = Path("runs", f"{stem}-{number}")
    if first:
        write_config(settings, folder)
    return folder


# -- checks and messages


def check_machine(settings: Settings) -> None:
    devices = run_devices(settings)
    if settings.precision == "16-mixed" and devices[0].type == "cpu":
        raise VertebraError("precision 16-mixed is for GPUs; on a CPU choose bf16-mixed.")
    for name in settings.logger:
        named_loggers.find(name)
    world = _world(settings)
    size = settings.data.batch_size
    if "auto" in (settings.lr, size):
        name = "lr" if settings.lr == "auto" else "data.batch_size"
        if settings.resume:
            raise VertebraError(f"{name} auto is for a new run; one that is resumed goes on with a number.")
        if world > 1:
            raise VertebraError(f"{name} auto works on one process, not on {world}: find it with --processes=1 first.")
    sharding.check(settings, world)
    unlabelled = settings.distill.unlabelled_batch_size or 0
    for name, images in {"data.batch_size": size, "distill.unlabelled_batch_size": unlabelled}.items():
        if images != "auto" and images % world:
            raise VertebraError(
                f"{name} is {images}, which {world} processes cannot share equally: "
                f"try {max(world, images // world * world)}, or fewer --processes."
            )


def _world(settings: Settings) -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 0)) or len(run_devices(settings))


def check_unlabelled(settings: Settings, catalogue: Catalogue, count: int) -> None:
    """Notes that a step has fewer unlabelled images than it could; raises VertebraError if processes cannot share them
    equally."""
    size, world = settings.distill.unlabelled_batch_size or settings.data.batch_size, _world(settings)
    if size == "auto" or count >= size:
        return
    if count % world:
        raise VertebraError(
            f"there are {count} unlabelled images, fewer than the {size} of a step, which {world} processes cannot "
            "share equally: lower distill.unlabelled_batch_size, or use fewer --processes."
        )
    catalogue.notes.append(f"unlabelled: all {count} are in each step, which could have {size}")


def _announce(settings: Settings, kind: Kind, catalogue: Catalogue, task: Task, folder: Path, echo: Echo) -> None:
    name = getattr(task.config, "backbone", settings.method)
    parameters = sum(p.numel() for p in task.parameters())
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in catalogue.splits.items())
    echo(f"{name}: {parameters:,} parameters, {trained:,} trained")
    classes = len(catalogue.classes)
    of_classes = f" in {classes} class{'es' * (classes != 1)}" if kind.has_classes else ""
    echo(f"{catalogue.path}: {counts} {kind.items}{of_classes}")
    echo_notes(catalogue, echo)
    echo(f"results in {folder}")


def echo_notes(catalogue: Catalogue, echo: Echo) -> None:
    """Notes and problems of the data."""
    for note in catalogue.notes:
        echo(escaped(f"  {note}"))
    for sentence in catalogue.problems:
        echo(escaped(f"skipped: {sentence}"))


def _finish(
    settings: Settings,
    kind: Kind,
    catalogue: Catalogue,
    samples: Sequence[Sample],
    folder: Path,
    history: RunHistory,
    trainee: Trainee,
    echo: Echo,
) -> Evaluation:
    """Evaluates the best model and writes the report."""
    task, about = checkpoint.load(folder / "best.safetensors", device=trainee.trainer.strategy.root_device)
    evaluation = evaluate(
        task,
        samples,
        batch_size=settings.data.known_batch_size // trainee.trainer.world_size,  # the other processes have ended
        workers=settings.data.workers,
        metric_options=kind.metric_options(about, catalogue),
    )
    unreadable = list(dict.fromkeys([*trainee.unreadable, *evaluation.unreadable]))
    name = getattr(task.config, "backbone", settings.method)
    report.save(
        folder,
        title=f"{name} on {catalogue.path}",
        kind=kind,
        evaluation=evaluation,
        samples=samples,
        history=history.history,
        config=yaml.safe_dump(plain(settings), sort_keys=False),
        problems=[*catalogue.problems, *unreadable],
    )
    for sentence in unreadable:
        echo(escaped(f"skipped: {sentence}"))
    if unreadable:
        echo(f"{len(unreadable)} images could not be read and were skipped")
    best = evaluation.metrics.get(task.monitor, 0.0)
    on = f"{len(evaluation.rows)} val {kind.noun(samples)}"
    echo(f"best: {task.monitor} {best:.4f} on {on}, from epoch {about['epoch']}")
    echo(f"look at {folder / 'report.html'}")
    echo(f"next: {kind.next_command.format(folder / 'best.safetensors')}")
    return evaluation
