"""A training run from its settings to a folder that somebody else can use."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from vertebra import tasks
from vertebra.data import Catalogue, open_data
from vertebra.data.batches import Endless, loader
from vertebra.engine import checkpoint
from vertebra.engine.evaluate import evaluate
from vertebra.engine.settings import Settings
from vertebra.engine.trainee import Average, Results, Trainee, plain, write_config
from vertebra.errors import VertebraError, in_range, one_of
from vertebra.structures import Preprocess
from vertebra.viz import report


def train(settings: Settings) -> Path:
    """Trains, keeps the best model, evaluates it, writes the report; returns the run folder.

    The folder holds config.yaml (which reproduces the run), best.safetensors (which `vertebra.load` reads),
    last.ckpt (to resume from), metrics.csv, tensorboard/, evaluation.json and report.html.

    Raises:
        VertebraError: for everything the user can put right.
    """
    _check(settings)
    _quiet()
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    say = print if first else (lambda *_: None)
    truth = tasks.find(settings.task).TASK.truth
    catalogue = open_data(settings.data.path, want=truth, val_share=settings.data.val_share, seed=settings.seed)
    catalogue.left_out(strict=settings.strict)
    L.seed_everything(settings.seed, verbose=False)
    task = _task(settings, catalogue, say)
    resume = _resume_point(settings)
    run = Path(resume).parent if resume else _folder(settings, create=first)
    common: dict[str, Any] = {
        "truth": task.truth,
        "classes": len(catalogue.classes),
        "batch_size": settings.data.batch_size,
        "workers": settings.data.workers,
        "seed": settings.seed,
    }
    training = loader(
        catalogue.split("train"), task.preprocess, augment=settings.augment, points=catalogue.points, **common
    )
    assert isinstance(training, Endless)
    validation = loader(catalogue.split("val"), task.preprocess, **common)
    _announce(settings, catalogue, task, run, say)
    terminal = sys.stdout.isatty()
    results = Results(run, (lambda _: None) if terminal else say)
    callbacks: list[Callback] = [results]
    if settings.ema:
        callbacks.append(Average(settings.ema))
    if settings.patience:
        callbacks.append(
            EarlyStopping(
                "val/score", patience=settings.patience, mode="max", check_on_train_epoch_end=True, strict=False
            )
        )
    callbacks.append(
        ModelCheckpoint(run, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    if terminal:
        callbacks.append(RichProgressBar(leave=True))
    trainer = _trainer(settings, run, callbacks, terminal)
    synchronous = any(isinstance(module, torch.nn.SyncBatchNorm) for module in task.modules())
    if synchronous and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise VertebraError("norm sync works on GPUs alone: on several processes of a CPU choose batch or group.")
    trainee = Trainee(task, settings)
    try:
        trainer.fit(trainee, training, validation, ckpt_path=resume, weights_only=True)
    except SystemExit:  # what Lightning makes of a KeyboardInterrupt, having switched off further ones
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if (run / "last.ckpt").exists():
            say(f"stopped; go on with: vertebra train {settings.task} --resume={run}")
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        raise VertebraError(
            "the device ran out of memory: lower data.batch_size (and raise accumulate), or set checkpointing."
        ) from error
    finally:
        training.close()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # what is left is done by one process alone
    if trainer.is_global_zero:
        _finish(settings, catalogue, run, results, trainee, say)
    return run


def _trainer(settings: Settings, run: Path, callbacks: list[Callback], terminal: bool) -> L.Trainer:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 0))  # set by torchrun
    devices = local or _devices(settings)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 or devices > 1
    whole = tasks.find(settings.task).TASK.truth == "label"
    try:
        return L.Trainer(
            max_epochs=settings.epochs,
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local if local else 1,
            # Detectors leave what only the maps need that they do not use, such as a norm of the finest, untrained.
            strategy=("ddp" if whole else "ddp_find_unused_parameters_true") if several else "auto",
            sync_batchnorm=several and _on_gpu(settings),  # torch has it for GPUs alone
            precision=settings.precision,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip or None,
            callbacks=callbacks,
            plugins=[checkpoint.SafeCheckpointIO()],
            logger=TensorBoardLogger(str(run), name="", version="tensorboard"),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=terminal,
            log_every_n_steps=10,
        )
    except MisconfigurationException as error:
        raise VertebraError(f"accelerator {settings.accelerator!r} is not to be had here: {error}") from error


def _on_gpu(settings: Settings) -> bool:
    return torch.cuda.is_available() and settings.accelerator in ("auto", "cuda")


def _devices(settings: Settings) -> int:
    """How many devices of this machine take part."""
    return settings.devices or (torch.cuda.device_count() if _on_gpu(settings) else 1)


def _check(settings: Settings) -> None:
    for name in ("epochs", "accumulate", "val_every"):
        in_range(name, getattr(settings, name), 1)
    for name in ("clip", "warmup", "patience", "lr", "lrf", "weight_decay", "layer_decay", "devices", "seed"):
        in_range(name, getattr(settings, name), 0)
    for name in ("ema", "momentum"):
        in_range(name, getattr(settings, name), 0, 0.999999)
    for name in ("image_size", "workers"):
        in_range(f"data.{name}", getattr(settings.data, name), 0)
    if not 0 < settings.data.val_share < 1:
        raise VertebraError(f"data.val_share is {settings.data.val_share}; it must lie between 0 and 1.")
    if settings.data.channels not in (1, 3):
        raise VertebraError(f"data.channels is {settings.data.channels}; pictures are read as 1 (grey) or 3 (RGB).")
    world = int(os.environ.get("WORLD_SIZE", 0)) or _devices(settings)
    if settings.data.batch_size % world:
        raise VertebraError(
            f"data.batch_size is {settings.data.batch_size}, which {world} processes cannot share equally: "
            f"try {max(world, settings.data.batch_size // world * world)}, or fewer --devices."
        )


def _quiet() -> None:
    """Lightning's remarks on hardware and hooks are for its developers, not for ours."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", text)


def _task(settings: Settings, catalogue: Catalogue, say: Any) -> tasks.Task:
    model = {f.name: getattr(settings.model, f.name) for f in dataclasses.fields(settings.model)}
    preprocess = _preprocess(settings)
    if catalogue.points and "points" in model:
        model["points"] = catalogue.points
    if settings.balance:
        if "class_weights" not in model:
            raise VertebraError(f"balance weighs the classes of whole pictures; {settings.task} has no use for it.")
        counts = catalogue.counts("train")
        if 0 in counts:
            raise VertebraError(f"class {catalogue.classes[counts.index(0)]!r} has no training pictures to balance.")
        model["class_weights"] = tuple(sum(counts) / (len(counts) * count) for count in counts)
    task = tasks.create(
        settings.task,
        classes=catalogue.classes,
        preprocess=preprocess,
        weights=settings.weights,
        source=settings.source,
        **model,
    )
    if task.report:
        say(task.report)
    return task


def _preprocess(settings: Settings) -> Preprocess:
    data, backbone = settings.data, settings.model.backbone
    known = tasks.preprocess_of(settings.task, backbone, settings.weights, settings.source)
    if len(known.mean) != data.channels:
        mean, std = ((0.449,), (0.226,)) if data.channels == 1 else (Preprocess.mean, Preprocess.std)
        known = dataclasses.replace(known, mean=mean, std=std)
    usual = tasks.preprocess_of(settings.task, backbone, None)
    possible = tasks.find(settings.task).TASK.resizes
    resize = (usual.resize if usual.resize in possible else possible[0]) if data.resize == "auto" else data.resize
    one_of("data.resize", resize, possible)
    side = data.image_size or usual.size[0]
    longest = round(side * usual.size[1] / usual.size[0]) if resize == usual.resize == "shortest" else side
    return dataclasses.replace(known, size=(side, longest), crop=1.0, resize=resize)


def _folder(settings: Settings, *, create: bool) -> Path:
    """A fresh run folder."""
    if settings.output:
        run = Path(settings.output)
        if create and (run / "last.ckpt").exists():
            raise VertebraError(
                f"{run} holds a run already: resume it with --resume={run}, or choose another --output."
            )
    else:
        stem = f"{settings.task}-{settings.model.backbone}"
        number = 1
        while create and Path("runs", f"{stem}-{number}").exists():
            number += 1
        run = Path("runs", f"{stem}-{number}")
    if create:  # a resumed run writes it anew once it has got on
        write_config(settings, run)
    return run


def _resume_point(settings: Settings) -> str | None:
    if not settings.resume:
        return None
    path = Path(settings.resume)
    path = path if path.suffix == ".ckpt" else path / "last.ckpt"
    if not path.is_file():
        raise VertebraError(f"{path} is not there, so there is nothing to resume; a run writes it after each epoch.")
    run = path.parent
    history = (run / "metrics.csv").read_text().splitlines() if (run / "metrics.csv").exists() else []
    done = max((int(row["epoch"]) for row in csv.DictReader(history)), default=0)
    if settings.epochs < done:
        raise VertebraError(f"{run} has {done} epochs already, and epochs is {settings.epochs}: give --epochs=NUMBER.")
    before, now = yaml.safe_load((run / "config.yaml").read_text()), plain(settings)
    fixed = {name: (before.get(name), now[name]) for name in ("task", "optimizer", "freeze_backbone", "layer_decay")}
    fixed |= {f"model.{k}": (before["model"].get(k, v), v) for k, v in now["model"].items() if k not in tasks.TRAINING}
    fixed["ema"] = (bool(before.get("ema")), bool(now["ema"]))
    for name, (old, new) in fixed.items():
        if old != new:
            raise VertebraError(
                f"{name} is {new!r} and was {old!r}, which a run that is resumed cannot change: start a new one with "
                f"--weights={run / 'best.safetensors'}."
            )
    return str(path)


def _announce(settings: Settings, catalogue: Catalogue, task: tasks.Task, run: Path, say: Any) -> None:
    parameters = sum(p.numel() for p in task.parameters())
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    if settings.freeze_backbone:
        trained -= sum(p.numel() for p in task.backbone.parameters())
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in catalogue.splits.items())
    say(f"{settings.model.backbone}: {parameters:,} parameters, {trained:,} trained")
    classes = len(catalogue.classes)
    say(f"{catalogue.path}: {counts} pictures in {classes} class{'es' * (classes != 1)}")
    for note in catalogue.notes:
        say(f"  {note}")
    for sentence in catalogue.broken:
        say(f"left out: {sentence}")
    say(f"results in {run}")


def _finish(settings: Settings, catalogue: Catalogue, run: Path, results: Results, trainee: Trainee, say: Any) -> None:
    task, about = checkpoint.load(run / "best.safetensors", device=trainee.trainer.strategy.root_device)
    samples = catalogue.split("val")
    found = evaluate(
        task,
        samples,
        batch_size=settings.data.batch_size // trainee.trainer.world_size,  # the other processes are gone
        workers=settings.data.workers,
        threshold=about["metrics"].get("threshold"),
    )
    broken = list(dict.fromkeys([*trainee.broken, *found.broken]))
    report.save(
        run,
        title=f"{settings.model.backbone} on {catalogue.path}",
        evaluation=found,
        samples=samples,
        history=results.history,
        config=yaml.safe_dump(plain(settings), sort_keys=False),
        broken=[*catalogue.broken, *broken],
    )
    for sentence in broken:
        say(f"left out: {sentence}")
    if broken:
        say(f"{len(broken)} pictures could not be read and were left out")
    best = found.metrics.get(task.best, 0.0)
    say(f"best: {task.best} {best:.4f} on {len(found.rows)} val pictures, from epoch {about['epoch']}")
    say(f"look at {run / 'report.html'}")
    say(f"next: vertebra predict {run / 'best.safetensors'} PICTURE --save=out/")
