"""The learning rate and the batch size from a few trial steps, before training."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vertebra.data.loader import Batch, EndlessLoader
from vertebra.engine.devices import run_devices
from vertebra.engine.settings import Settings
from vertebra.engine.trainee import Trainee
from vertebra.engine.trainer import Echo, create_trial, stoppable
from vertebra.errors import VertebraError, is_out_of_memory
from vertebra.files import replacing
from vertebra.progress import track
from vertebra.tasks import Task
from vertebra.viz import plots

LOWEST, HIGHEST = 1e-6, 1.0
"""Learning rates between which the finder looks."""
RATE_STEPS = 100
"""Steps from the lowest learning rate to the highest."""
WINDOW = 5
"""Steps on either side over which the loss is averaged."""
DIVERGED = 4.0
"""Factor on the first losses at which a trial ends."""
BATCH_STEPS = 3
"""Steps that a batch size must get through."""
MIN_EPOCH = 10
"""Steps that an epoch keeps when the batch size is found."""
MEMORY_SHARE = 0.8
"""Of the memory that a batch size may fill: the rest is for batches of larger images, or more objects."""

Batches = Callable[[Settings], EndlessLoader]
"""Makes the training batches of settings."""


def replace_auto(
    settings: Settings,
    task: Task,
    batches: Batches,
    count: int,
    folder: Path,
    echo: Echo,
    distiller: nn.Module | None = None,
) -> Settings:
    """The settings with numbers in place of `auto`: the batch size first, then the learning rate for it.

    The trials train copies of the task; no random number that the run will use is drawn.

    Args:
        settings: of the run.
        task: its model.
        distiller: as for Trainee.
        batches: makes the training batches of settings.
        count: number of training images.
        folder: of the run; the curve of the learning rate is written to lr.png in it.

    Raises:
        VertebraError: if the smallest batch does not fit into memory, or the loss gives no learning rate.
    """
    with torch.random.fork_rng():
        if settings.data.batch_size == "auto":
            size, reason = _batch_size(settings, task, batches, count, folder, distiller)
            settings = _with_batch_size(settings, size)
            echo(f"data.batch_size {size}: {reason}")
        if settings.lr == "auto":
            settings = replace(settings, base_batch_size=0)  # the rate is that of the batch at hand
            settings = replace(settings, lr=_learning_rate(settings, task, batches(settings), folder, distiller))
            echo(f"lr {settings.lr:g}: a tenth of the rate with the lowest loss, see {folder / 'lr.png'}")
    return settings


class Trial(Trainee):
    """Trains a copy of the task for some steps, with `lr` of the settings times `factor(step)` as the learning rate.

    It ends early where the loss is not finite, or DIVERGED times what it was.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        distiller: nn.Module | None,
        factor: Callable[[int], float] = lambda _: 1.0,
    ) -> None:
        super().__init__(copy.deepcopy(task), settings, copy.deepcopy(distiller))
        self.factor = factor
        self.losses: list[float] = []
        """Of each batch."""
        self.bar: Iterator[int] = iter(())
        """Is advanced with each batch."""

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        return [optimizer], [{"scheduler": LambdaLR(optimizer, self.factor), "interval": "step"}]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        next(self.bar, None)
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        if fmean(self.losses[-WINDOW:]) > DIVERGED * fmean(self.losses[:WINDOW]):
            self.trainer.should_stop = True
        return loss

    def diverged(self, where: str) -> VertebraError:
        return Diverged(where)


class Diverged(VertebraError):
    """The loss of a trial is not finite."""


def _learning_rate(
    settings: Settings, task: Task, batches: EndlessLoader, folder: Path, distiller: nn.Module | None
) -> float:
    """A tenth of the rate at which the loss is lowest while the rate rises exponentially, in three digits.

    Lightning's finder, which takes the steepest slope, measures it over the rate and not its logarithm, and so mostly
    gives one of the lowest rates; it also gives all layers one rate.

    Source: Cyclical Learning Rates, arXiv:1506.01186, section 3.3.
    """
    rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (RATE_STEPS - 1)) for step in range(RATE_STEPS)]
    trial = Trial(task, replace(settings, lr=1.0), distiller, lambda step: rates[min(step, RATE_STEPS - 1)])
    with contextlib.suppress(Diverged):
        _fit(trial, batches, folder, RATE_STEPS, "finding lr")
    starts = range(0, len(trial.losses), settings.accumulate)
    losses = [fmean(trial.losses[i : i + settings.accumulate]) for i in starts]
    smooth = [fmean(losses[max(0, i - WINDOW) : i + WINDOW + 1]) for i in range(len(losses))]
    if len(smooth) <= WINDOW:
        raise VertebraError(
            f"lr auto: the loss is not finite after {len(losses)} steps with lr {LOWEST:g}; give a number."
        )
    lowest = min(range(WINDOW, len(smooth)), key=smooth.__getitem__)
    rate = float(f"{rates[lowest] / 10:.3g}")
    with replacing(folder / "lr.png") as temporary:
        plots.learning_rates(rates[: len(losses)], losses, smooth, rate).savefig(temporary, format="png", dpi=110)
    return rate


def _batch_size(
    settings: Settings, task: Task, batches: Batches, count: int, folder: Path, distiller: nn.Module | None
) -> tuple[int, str]:
    """The largest power of two that fits into memory and leaves MIN_EPOCH steps per epoch, and why it is no larger.

    Lightning's finder sets the batch size of a DataLoader, which ours does not have: its batch sampler makes batches of
    images of one shape.
    """
    device = run_devices(settings)[0]
    limit, before = _memory(device)
    size = 2
    while _fits(_with_batch_size(settings, size), task, batches, folder, distiller):
        used = _memory(device)[1]
        if used + (used - before) > MEMORY_SHARE * limit:
            return size, f"{2 * size} images would fill more than {MEMORY_SHARE:.0%} of the memory"
        if 2 * size * MIN_EPOCH > count:
            return size, f"an epoch of {count} images would have fewer than {MIN_EPOCH} steps of {2 * size}"
        size *= 2
    if size == 2:
        raise VertebraError("data.batch_size auto: two images do not fit into memory; lower data.image_size.")
    return size // 2, f"{size} images do not fit into memory"


def _with_batch_size(settings: Settings, size: int) -> Settings:
    return replace(settings, data=replace(settings.data, batch_size=size))


def _fits(settings: Settings, task: Task, batches: Batches, folder: Path, distiller: nn.Module | None) -> bool:
    """Whether a copy of the task can be trained for some steps without running out of memory."""
    try:
        _fit(Trial(task, settings, distiller), batches(settings), folder, BATCH_STEPS, "finding data.batch_size")
        fits = True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits


def _fit(trial: Trial, batches: EndlessLoader, folder: Path, steps: int, description: str) -> None:
    """Trains for a number of steps, and closes the loader."""
    bar = track(range(steps * trial.settings.accumulate), description)
    trial.bar = bar
    try:
        with stoppable():
            create_trial(trial.settings, folder, steps).fit(trial, batches)
    finally:
        bar.close()
        batches.close()


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes of memory that this process can have on a device, and the most that it has used so far."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device), torch.cuda.max_memory_reserved(device)
    import resource  # which Windows lacks

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if (table := Path("/proc/meminfo")).exists():
        free = 1024 * int(re.findall(r"MemAvailable: +(\d+)", table.read_text())[0])
    return used + free, used
