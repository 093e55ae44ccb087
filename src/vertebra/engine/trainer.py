"""Lightning's Trainer for a run: its callbacks, logger and devices, and the errors that end a run."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from vertebra.data.loader import EndlessLoader
from vertebra.engine import loggers as named_loggers
from vertebra.engine import processes, sharding, state
from vertebra.engine.devices import run_devices
from vertebra.engine.progress import TrainingBar
from vertebra.engine.progressive import GrowingLoader
from vertebra.engine.resume import StoppedRun
from vertebra.engine.settings import Settings
from vertebra.engine.trainee import Average, Patience, RunHistory, Trainee
from vertebra.errors import VertebraError, first_line, is_out_of_memory
from vertebra.files import remove_leftovers, unsaved
from vertebra.progress import on_terminal
from vertebra.tasks import Task

Echo = Callable[[str], None]


def create(
    settings: Settings,
    task: Task,
    folder: Path,
    history: RunHistory,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> L.Trainer:
    """The Trainer of a run, with a user's further callbacks and loggers.

    Raises:
        VertebraError: where the device or the norm layer cannot be used.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 0))  # set by torchrun
    devices = run_devices(settings)
    on_gpu = devices[0].type == "cuda"
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 or len(devices) > 1
    timeout = timedelta(minutes=settings.timeout)
    if settings.strategy == "fsdp":
        sharding.check_task(task, devices[0])
        strategy: Strategy = sharding.Sharded(int(os.environ.get("WORLD_SIZE", 0)) or len(devices), timeout)
    else:
        unused = task.unused_parameters or settings.unfreeze_every
        strategy = DDPStrategy(find_unused_parameters=bool(unused), timeout=timeout)
    callbacks = [*_callbacks(settings, folder, history), *callbacks]
    if on_terminal() and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(TrainingBar(settings))
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        **_computing(settings, devices),
        num_nodes=int(os.environ["WORLD_SIZE"]) // local if local else 1,
        strategy=strategy if several else "auto",
        sync_batchnorm=several and on_gpu,  # torch has it for GPUs alone
        callbacks=callbacks,
        plugins=[state.SafeCheckpointIO()],
        logger=[*loggers, *named_loggers.create(settings.logger, folder)],
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        log_every_n_steps=10,
    )
    synchronous = any(isinstance(module, torch.nn.SyncBatchNorm) for module in task.modules())
    if synchronous and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise VertebraError("norm sync works on GPUs alone: on several processes of a CPU choose batch or group.")
    return trainer


def create_trial(settings: Settings, folder: Path, steps: int) -> L.Trainer:
    """The Trainer of a few steps on one device, which leaves nothing behind in `folder`."""
    return L.Trainer(
        max_epochs=-1,
        max_steps=steps,
        **_computing(settings, run_devices(settings)[:1]),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


def _computing(settings: Settings, devices: Sequence[torch.device]) -> dict[str, Any]:
    """The arguments of L.Trainer that decide how a step is computed."""
    return {
        "accelerator": devices[0].type,
        "devices": [device.index or 0 for device in devices] if devices[0].type == "cuda" else len(devices),
        "precision": settings.precision,
        "accumulate_grad_batches": settings.accumulate,
        "gradient_clip_val": settings.clip or None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
    }


def _callbacks(settings: Settings, folder: Path, history: RunHistory) -> list[Callback]:
    callbacks: list[Callback] = [history]  # before the averaging, see RunHistory
    if settings.ema:
        callbacks.append(Average(settings.ema))
    if settings.patience:
        callbacks.append(Patience(settings.patience, history))
    callbacks.append(
        ModelCheckpoint(folder, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    return callbacks


def fit(
    trainer: L.Trainer,
    trainee: Trainee,
    loaders: tuple[EndlessLoader | GrowingLoader, Iterable],
    folder: Path,
    stopped: StoppedRun | None,
    echo: Echo,
) -> None:
    """Trains, from a stopped run where there is one.

    Raises:
        VertebraError: if memory or disk space runs out, the stopped run is damaged, or a process ends.
        SystemExit: instead, in those of several processes that fail because, or as, another has failed and says so.
    """
    remove_leftovers(folder)
    if stopped:
        stopped.check_state(trainer, trainee)
    try:
        with processes.observed(trainer, folder, trainee.settings.timeout), stoppable():
            trainer.fit(trainee, *loaders, ckpt_path=stopped.path if stopped else None, weights_only=True)
    except KeyboardInterrupt:
        if (folder / "last.ckpt").exists():
            echo(f"stopped; continue with: vertebra train {trainee.settings.task} --resume={folder}")
        raise
    except VertebraError:
        raise
    except Exception as error:
        if stopped and trainer._checkpoint_connector._loaded_checkpoint:  # until all of it is restored
            raise state.damaged(stopped.path, first_line(error)) from error
        if is_out_of_memory(error):
            place = "the CPU" if trainer.strategy.root_device.type == "cpu" else "the device"
            raise VertebraError(
                f"{place} ran out of memory: lower data.batch_size (and raise accumulate), or set checkpointing."
            ) from error
        if "more than 1 value per channel" in str(error):
            raise VertebraError(
                "batch norm has one value per channel only: raise data.batch_size or data.image_size, or choose a "
                "backbone without batch norm."
            ) from error
        if isinstance(error, OSError):  # of a logger: images that cannot be read are no OSError
            raise unsaved(Path(error.filename or folder), error) from error
        raise
    finally:
        loaders[0].close()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # one process alone does the rest


@contextmanager
def stoppable() -> Iterator[None]:
    """A KeyboardInterrupt for Lightning's SystemExit, which it makes of one while it switches further ones off."""
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def silence_lightning() -> None:
    """Lightning's remarks on hardware and hooks are for its developers, not for ours."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*no `val_dataloader`.*",
        ".*treespec, LeafSpec.*",
        ".*using the WeightAveraging callback.*",  # with configure_model: `strategy` refuses sharding with `ema`
    ):
        warnings.filterwarnings("ignore", text)
