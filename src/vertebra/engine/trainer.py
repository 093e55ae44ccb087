"""Lightning's Trainer for a run: its callbacks, logger and devices, and the errors that end a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from vertebra.data.loader import EndlessLoader
from vertebra.engine import checkpoint
from vertebra.engine.devices import num_devices, on_gpu
from vertebra.engine.settings import Settings
from vertebra.engine.trainee import Average, RunHistory, Trainee
from vertebra.errors import VertebraError
from vertebra.tasks import Task

Echo = Callable[[str], None]


def create(settings: Settings, task: Task, folder: Path, history: RunHistory) -> L.Trainer:
    """Raises VertebraError where the device or the norm layer cannot be used here."""
    callbacks = _callbacks(settings, folder, history)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 0))  # set by torchrun
    devices = local or num_devices(settings)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 or devices > 1
    ddp = "ddp_find_unused_parameters_true" if task.unused_parameters else "ddp"
    try:
        trainer = L.Trainer(
            max_epochs=settings.epochs,
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local if local else 1,
            strategy=ddp if several else "auto",
            sync_batchnorm=several and on_gpu(settings),  # torch has it for GPUs alone
            precision=settings.precision,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip or None,
            callbacks=callbacks,
            plugins=[checkpoint.SafeCheckpointIO()],
            logger=TensorBoardLogger(str(folder), name="", version="tensorboard"),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
            log_every_n_steps=10,
        )
    except MisconfigurationException as error:
        raise VertebraError(f"accelerator {settings.accelerator!r} is not to be had here: {error}") from error
    synchronous = any(isinstance(module, torch.nn.SyncBatchNorm) for module in task.modules())
    if synchronous and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise VertebraError("norm sync works on GPUs alone: on several processes of a CPU choose batch or group.")
    return trainer


def _callbacks(settings: Settings, folder: Path, history: RunHistory) -> list[Callback]:
    callbacks: list[Callback] = [history]  # before the averaging, see RunHistory
    if settings.ema:
        callbacks.append(Average(settings.ema))
    if settings.patience:
        callbacks.append(
            EarlyStopping(
                "val/score", patience=settings.patience, mode="max", check_on_train_epoch_end=True, strict=False
            )
        )
    callbacks.append(
        ModelCheckpoint(folder, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    if sys.stdout.isatty():
        callbacks.append(RichProgressBar(leave=True))
    return callbacks


def fit(
    trainer: L.Trainer,
    trainee: Trainee,
    loaders: tuple[EndlessLoader, Iterable],
    folder: Path,
    state: Path | None,
    echo: Echo,
) -> None:
    """Trains, from `state`, a last.ckpt, where there is one. Raises VertebraError where memory runs out."""
    try:
        trainer.fit(trainee, *loaders, ckpt_path=state, weights_only=True)
    except SystemExit:  # Lightning's for a KeyboardInterrupt, with further ones switched off
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if (folder / "last.ckpt").exists():
            echo(f"stopped; continue with: vertebra train {trainee.settings.task} --resume={folder}")
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        raise VertebraError(
            "the device ran out of memory: lower data.batch_size (and raise accumulate), or set checkpointing."
        ) from error
    finally:
        loaders[0].close()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # one process alone does the rest


def silence_lightning() -> None:
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
