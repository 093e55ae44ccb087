"""A training run from its settings to a folder that somebody else can use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import yaml

import vertebra
from vertebra import kinds, options, tasks
from vertebra.data.catalogue import Catalogue
from vertebra.data.loader import EndlessLoader, loader
from vertebra.data.reading import Source
from vertebra.engine import checkpoint
from vertebra.engine import trainer as trainers
from vertebra.engine.devices import is_first_process, num_devices
from vertebra.engine.evaluate import evaluate
from vertebra.engine.resume import resume_state
from vertebra.engine.settings import Settings, plain
from vertebra.engine.trainee import RunHistory, Trainee, write_config
from vertebra.engine.trainer import Echo
from vertebra.errors import VertebraError, in_range, one_of
from vertebra.kinds import Kind
from vertebra.metrics.evaluation import Evaluation
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
    metrics: dict[str, Any]
    """Metrics of the best model on the val split."""
    history: list[dict[str, float]]
    """Losses, metrics, learning rate and seconds of each epoch, as in metrics.csv."""

    def load(self, *, device: str | None = None, precision: str = "32-true") -> Any:
        """The Predictor of the best model; arguments as in `vertebra.load`."""
        return vertebra.load(self.best, device=device, precision=precision)


def train(settings: Settings, data: Source | None = None) -> Run:
    """Trains, saves the best model, evaluates it and writes the report.

    Args:
        settings: of the run, as `resolve` makes them.
        data: a Dataset of (image, Target), or a mapping of split names to Datasets, in place of `settings.data.path`.

    Raises:
        VertebraError: for every mistake of the user.
    """
    _check(settings)
    trainers.silence_lightning()
    echo = print if is_first_process() else _silent
    kind = kinds.find(tasks.find(settings.task, settings.method).MODEL.kind)
    catalogue = _open(settings, data, kind)
    L.seed_everything(settings.seed, verbose=False)
    plan = _plan(settings, kind, catalogue)
    model = options.flatten(type(plan.config), vars(plan.config))
    settings = replace(settings, method=_name(plan.module), model=model)
    task = _build(settings, plan, kind, echo)
    state = resume_state(settings, plan)
    folder = state.parent if state else _new_folder(settings, plan)
    loaders = _loaders(settings, task, kind, catalogue)
    history = RunHistory(folder, echo if not sys.stdout.isatty() else _silent, _origin(settings, data))
    trainer = trainers.create(settings, task, folder, history)
    trainee = Trainee(task, settings)
    _announce(settings, catalogue, task, folder, echo)
    trainers.fit(trainer, trainee, loaders, folder, state, echo)
    assert history.best is not None, "the last epoch is always validated"
    metrics = history.best["metrics"]
    if trainer.is_global_zero:
        metrics = _finish(settings, kind, catalogue, folder, history, trainee, echo).metrics
    return Run(folder, folder / "best.safetensors", history.best["epoch"], metrics, history.history)


def _silent(_: str) -> None:
    pass


# -- data and model


def _open(settings: Settings, data: Source | None, kind: Kind) -> Catalogue:
    path = settings.data.path if data is None else data
    catalogue = kind.open(path, val_share=settings.data.val_share, seed=settings.seed)
    catalogue.skipped(strict=settings.strict)
    return catalogue


def _origin(settings: Settings, data: Source | None) -> dict[str, Any]:
    """The data of the run for the checkpoint's description; empty for Datasets, which no later process can open."""
    if data is not None:
        return {}
    return {"data": {"path": settings.data.path, "val_share": settings.data.val_share, "seed": settings.seed}}


def _plan(settings: Settings, kind: Kind, catalogue: Catalogue) -> Plan:
    """The model's options: those that the data decides win over those of the settings."""
    assumed = tasks.find(settings.task, settings.method)
    known = set(options.names(assumed.Config))
    decided = kind.model_options(catalogue, settings.balance)
    balancing = decided.keys() - kind.model_options(catalogue, False).keys()
    if settings.balance and not (balancing and balancing <= known):
        raise VertebraError(f"balance weighs the classes of whole images; {settings.task} has no use for it.")
    decided = {name: value for name, value in decided.items() if name in known}
    for name in options.differing(options.build(assumed.Config, settings.model), decided):
        if name in options.flatten(assumed.Config, settings.model):
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
    task = plan.build(_preprocess(settings, plan, kind.resize_modes))
    if task.report:
        echo(str(task.report))
    return task


def _preprocess(settings: Settings, plan: Plan, modes: Sequence[str]) -> Preprocess:
    """The plan's preprocessing at the size, channels and way of resizing of the settings."""
    data, known = settings.data, plan.preprocess
    # The size that a checkpoint was trained with is not taken over: the model's default is.
    usual = plan.module.MODEL.default_preprocess(None, plan.config)
    if known.channels != data.channels:
        mean, std = ((0.449,), (0.226,)) if data.channels == 1 else (Preprocess.mean, Preprocess.std)
        known = replace(known, mean=mean, std=std)
    resize: str = data.resize
    if resize == "auto":
        resize = usual.resize if usual.resize in modes else modes[0]
    one_of("data.resize", resize, modes)
    side = data.image_size or usual.size[0]
    longest = round(side * usual.size[1] / usual.size[0]) if resize == usual.resize == "shortest" else side
    return replace(known, size=(side, longest), crop=1.0, resize=resize)


def _loaders(settings: Settings, task: Task, kind: Kind, catalogue: Catalogue) -> tuple[EndlessLoader, Iterable]:
    common: dict[str, Any] = {
        "num_classes": len(catalogue.classes),
        "batch_size": settings.data.batch_size,
        "workers": settings.data.workers,
        "seed": settings.seed,
    }
    augmented = {"augment": settings.augment, "keypoints": catalogue.keypoints}
    training = loader(catalogue.split("train"), task.preprocess, kind, **augmented, **common)
    assert isinstance(training, EndlessLoader)
    return training, loader(catalogue.split("val"), task.preprocess, kind, **common)


# -- the run folder


def _new_folder(settings: Settings, plan: Plan) -> Path:
    """A new run folder, which holds config.yaml; the first process makes it."""
    first = is_first_process()
    if settings.output:
        folder = Path(settings.output)
        if first and (folder / "last.ckpt").exists():
            raise VertebraError(
                f"{folder} holds a run already: resume it with --resume={folder}, or choose another --output."
            )
    else:
        stem = f"{settings.task}-{getattr(plan.config, 'backbone', settings.method)}"
        number = 1
        while first and Path("runs", f"{stem}-{number}").exists():
            number += 1
        folder = Path("runs", f"{stem}-{number}")
    if first:
        write_config(settings, folder)
    return folder


# -- checks and messages


def _check(settings: Settings) -> None:
    for name in ("epochs", "accumulate", "val_every"):
        in_range(name, getattr(settings, name), 1)
    for name in (
        *("clip", "warmup", "patience", "lr", "final_lr_ratio"),
        *("weight_decay", "layer_decay", "devices", "seed"),
    ):
        in_range(name, getattr(settings, name), 0)
    for name in ("ema", "momentum"):
        in_range(name, getattr(settings, name), 0, 0.999999)
    for name in ("image_size", "workers"):
        in_range(f"data.{name}", getattr(settings.data, name), 0)
    if not 0 < settings.data.val_share < 1:
        raise VertebraError(f"data.val_share is {settings.data.val_share}; it must lie between 0 and 1.")
    if settings.data.channels not in (1, 3):
        raise VertebraError(f"data.channels is {settings.data.channels}; images are read as 1 (grey) or 3 (RGB).")
    world = int(os.environ.get("WORLD_SIZE", 0)) or num_devices(settings)
    if settings.data.batch_size % world:
        raise VertebraError(
            f"data.batch_size is {settings.data.batch_size}, which {world} processes cannot share equally: "
            f"try {max(world, settings.data.batch_size // world * world)}, or fewer --devices."
        )


def _announce(settings: Settings, catalogue: Catalogue, task: Task, folder: Path, echo: Echo) -> None:
    name = getattr(task.config, "backbone", settings.method)
    parameters = sum(p.numel() for p in task.parameters())
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in catalogue.splits.items())
    echo(f"{name}: {parameters:,} parameters, {trained:,} trained")
    classes = len(catalogue.classes)
    echo(f"{catalogue.path}: {counts} images in {classes} class{'es' * (classes != 1)}")
    for note in catalogue.notes:
        echo(f"  {note}")
    for sentence in catalogue.problems:
        echo(f"skipped: {sentence}")
    echo(f"results in {folder}")


def _finish(
    settings: Settings,
    kind: Kind,
    catalogue: Catalogue,
    folder: Path,
    history: RunHistory,
    trainee: Trainee,
    echo: Echo,
) -> Evaluation:
    """Evaluates the best model and writes the report."""
    task, about = checkpoint.load(folder / "best.safetensors", device=trainee.trainer.strategy.root_device)
    samples = catalogue.split("val")
    evaluation = evaluate(
        task,
        samples,
        batch_size=settings.data.batch_size // trainee.trainer.world_size,  # the other processes have ended
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
        echo(f"skipped: {sentence}")
    if unreadable:
        echo(f"{len(unreadable)} images could not be read and were skipped")
    best = evaluation.metrics.get(task.monitor, 0.0)
    echo(f"best: {task.monitor} {best:.4f} on {len(evaluation.rows)} val images, from epoch {about['epoch']}")
    echo(f"look at {folder / 'report.html'}")
    echo(f"next: vertebra predict {folder / 'best.safetensors'} IMAGE --save=out/")
    return evaluation
