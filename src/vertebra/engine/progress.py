"""The progress of training on a terminal."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from vertebra.engine.settings import Settings
from vertebra.progress import clock

SMOOTHING = 0.05
"""Weight of a step in the running mean of the loss."""
REFRESH = 4
"""Times per second that the bar is drawn."""
FORWARD_SHARE = 1 / 3
"""Of a training step's time, for the time of a validation step before any was measured."""


class TrainingBar(ProgressBar):
    """One bar below the lines of the epochs: epoch, step, loss, learning rate, images per second, time left.

    The time left of the run counts the remaining epochs and validations at the pace of the last ones.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.live: Live | None = None
        self.enabled = True
        self.validating = False
        self.done = self.total = 0
        self.began = self.moment = 0.0  # of the present pass, and when its last step was done
        self.training_seconds: float | None = None
        """Of the training steps of the last complete epoch."""
        self.validation_seconds: float | None = None
        """Of the last complete validation."""
        self.loss: Tensor | None = None

    # -- hooks

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False
        self._stop()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.enabled and trainer.is_global_zero:
            self.live = Live(console=Console(), get_renderable=self.render, transient=True, refresh_per_second=REFRESH)
            self.live.start()

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._begin(int(self.total_train_batches), validating=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count()
        loss = outputs["loss"] * trainer.accumulate_grad_batches  # by which Lightning has divided it
        self.loss = loss if self.loss is None else torch.lerp(self.loss, loss, SMOOTHING)
        if self.done == self.total:
            self.training_seconds = self.moment - self.began

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._begin(self._validation_steps(), validating=True)

    def on_validation_batch_end(self, *arguments: Any, **_: Any) -> None:
        self._count()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.validation_seconds = time.perf_counter() - self.began

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def print(self, *arguments: Any, **options: Any) -> None:
        print(*arguments, **options)

    def _begin(self, total: int, *, validating: bool) -> None:
        self.validating, self.done, self.total = validating, 0, total
        self.began = self.moment = time.perf_counter()

    def _count(self) -> None:
        self.done += 1
        self.moment = time.perf_counter()

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    # -- what is shown

    def render(self) -> Group:
        epoch, epochs = self.trainer.current_epoch + 1, self.settings.epochs
        step = f"{'validation ' if self.validating else ''}step {self.done}/{self.total}"
        if self.validating and self.done == self.total:
            step = "computing the metrics"
        of_epoch, of_run = self.seconds_left()
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_row(
            f"epoch {epoch}/{epochs}  {step}",
            Bar(max(1, self.total), self.done),
            f"left: epoch {clock(of_epoch)}, run {clock(of_run)}",
        )
        lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
        loss = "-" if self.loss is None else f"{float(self.loss):.4f}"
        numbers = f"loss {loss}  lr {lr:.3g}"
        if seconds := self._step_seconds():
            numbers += f"  {self.settings.data.known_batch_size / seconds:.3g} images/s"
        return Group(line, Text(numbers, no_wrap=True, overflow="ellipsis"))

    def seconds_left(self) -> tuple[float | None, float | None]:
        """Of the epoch and of the run; None before the first step."""
        epoch, epochs = self.trainer.current_epoch + 1, self.settings.epochs
        step = self._step_seconds()
        training, validation = self.training_seconds, self.validation_seconds
        if step is not None and not self.validating:
            training = step * self.total
            if validation is None:
                validation = step * FORWARD_SHARE * self._validation_steps()
        elif step is not None and validation is None:
            validation = step * self.total
        if training is None or validation is None:
            return None, None
        left = (self.total - self.done) * (step or 0.0)
        left = max(0.0, left - (time.perf_counter() - self.moment))
        if not self.validating and self._is_validated(epoch):
            left += validation
        later = range(epoch + 1, epochs + 1)
        return left, left + len(later) * training + sum(map(self._is_validated, later)) * validation

    def _step_seconds(self) -> float | None:
        """Mean seconds of the steps of this pass; None before the first is done."""
        return (self.moment - self.began) / self.done if self.done else None

    def _validation_steps(self) -> int:
        steps = self.trainer.num_val_batches
        return int(sum(steps) if isinstance(steps, list) else steps)

    def _is_validated(self, epoch: int) -> bool:
        return epoch % self.settings.val_every == 0 or epoch == self.settings.epochs
