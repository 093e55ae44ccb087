"""The one LightningModule, and the callback that keeps its results."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from vertebra.data.batches import Batch, counted_seed
from vertebra.engine import checkpoint, optim
from vertebra.engine.settings import Settings
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.tasks import Task


class Trainee(L.LightningModule):
    """Any task, any backbone."""

    def __init__(self, task: Task, settings: Settings) -> None:
        super().__init__()
        self.task = task.to(memory_format=torch.channels_last)  # what convolutions compute fastest in
        self.settings = settings
        self.metrics = task.metrics()
        self.broken: dict[str, None] = {}  # an ordered set of sentences
        task.backbone.checkpointing = settings.checkpointing
        if settings.freeze_backbone:
            task.backbone.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        optimizer = optim.optimizer(self.task, self.settings)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(total * min(1.0, self.settings.warmup / max(1, self.settings.epochs)))
        scheduler = optim.schedule(optimizer, steps=total, warmup=warmup, lrf=self.settings.lrf)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """A run that is resumed takes its rates and decays from its settings, as they are now, not from the state."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        fresh = optim.optimizer(self.task, self.settings).param_groups
        for group, new, course in zip(optimizer.param_groups, fresh, scheduler.lr_lambdas, strict=True):
            group.update({key: value for key, value in new.items() if key != "params"}, initial_lr=new["lr"])
            group["lr"] = new["lr"] * course(scheduler.last_epoch)
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def on_train_epoch_start(self) -> None:
        if self.settings.freeze_backbone:
            self.task.backbone.eval()  # so that batch norm's statistics stay as they are

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout and drop path draw from a seed that counts, so a resumed run needs no generator's state.
        torch.manual_seed(counted_seed(self.settings.seed, self.current_epoch, batch_idx, self.global_rank))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if batch.targets:
            batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if self.trainer.training:
            return batch.to(device, non_blocking=device.type == "cuda")
        # What is true is looked at by the metrics alone, at the pictures' full size, on the CPU.
        return dataclasses.replace(batch, images=batch.images.to(device))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.note_broken(batch)
        if not batch.targets:
            raise VertebraError(f"no training picture can be read: {batch.broken[0]}")
        terms = self.task.loss(batch.images, batch.targets)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            named = ", ".join(f"{name} = {float(value):g}" for name, value in terms.items())
            raise self.diverged(f"at epoch {self.current_epoch + 1}, step {batch_idx + 1} ({named})")
        size = len(batch.targets)
        logged = {f"train/{name}": value for name, value in terms.items()} if len(terms) > 1 else {}
        logged["train/loss"] = total
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=size, prog_bar=True, sync_dist=True)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.note_broken(batch)
        if batch.targets:
            self.metrics.update(self.task.infer(batch.images, batch.frames), batch.targets)

    def diverged(self, where: str) -> VertebraError:
        return VertebraError(
            f"the loss is not finite {where}: lower lr (now {self.settings.peak_lr:g}), set clip, or lengthen warmup. "
            "What was saved is kept."
        )

    def note_broken(self, batch: Batch) -> None:
        for sentence in batch.broken:
            if self.settings.strict:
                raise VertebraError(f"{sentence} (without --strict it is left out and listed)")
            self.broken[sentence] = None

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        state["broken"] = list(self.broken)

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        self.broken = dict.fromkeys(state["broken"])


class Results(L.Callback):
    """Computes the validation's metrics, keeps the best model and the run's history.

    It stands before the weight averaging in the list of callbacks, so that at the end of a validation it sees the
    averaged weights, which were validated.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self.run = run
        self.say = say
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.waited = self.worked = self.moment = self.began = 0.0
        self.validated = False

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Trainee)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if last else module.settings.val_every
        trainer.callback_metrics.pop("val/score", None)  # without it, early stopping does not look
        self.validated = False
        self.waited = self.worked = 0.0
        self.began = self.moment = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        self.waited += now - self.moment
        self.moment = now

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.worked += now - self.moment
        self.moment = now

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Trainee)
        self.validated = True
        values = module.metrics.compute()
        module.metrics.reset()
        scalars = {f"val/{k}": v for k, v in values.items() if isinstance(v, float)}
        module.log_dict(scalars, sync_dist=True)
        if not all(math.isfinite(value) for value in scalars.values()):
            raise module.diverged(f"in the validation of epoch {trainer.current_epoch + 1}")
        score = values.get(module.task.best, 0.0)  # average precision is undefined where there is nothing to be found
        trainer.callback_metrics["val/score"] = torch.tensor(score)  # what early stopping watches, on every process
        if self.best is None or score > self.best["score"]:
            self.best = {"score": score, "epoch": trainer.current_epoch + 1, "metrics": values}
            if trainer.is_global_zero:
                settings = module.settings
                data = {"path": settings.data.path, "val_share": settings.data.val_share, "seed": settings.seed}
                about = {
                    "metrics": {k: v for k, v in values.items() if isinstance(v, float)},
                    "epoch": trainer.current_epoch + 1,
                    "data": data,
                }
                checkpoint.save(module.task, self.run / "best.safetensors", **about)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Trainee)
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k != "val/score"}
        if not self.validated:
            logged = {k: v for k, v in logged.items() if not k.startswith("val/")}  # of an epoch before
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, **dict(sorted(logged.items()))}
        row["lr"] = trainer.optimizers[0].param_groups[-1]["lr"]
        row["seconds"] = time.perf_counter() - self.began
        row["waiting"] = self.waited / max(1e-9, self.waited + self.worked)
        self.history.append(row)
        if not trainer.is_global_zero:
            return
        if module.settings.resume:
            write_config(module.settings, self.run)
        write_csv(self.run / "metrics.csv", self.history)
        shown = [name for name in module.metrics.labels if f"val/{name}" in row][:6]  # the most telling
        parts = [f"{name} {row[f'val/{name}']:.4f}" for name in shown]
        val = f"  val {'  '.join(parts)}" if parts else ""
        star = " *" if self.best and self.best["epoch"] == row["epoch"] else ""
        self.say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {row['seconds']:.1f} s  "
            f"train loss {row['train/loss']:.4f}{val}{star}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best = state["history"], state["best"]


class Average(WeightAveraging):
    """Exponential moving average whose decay rises to its value, so that short runs are not held at their start.

    Step n uses min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage does with num_updates.
    """

    def __init__(self, decay: float) -> None:
        def average(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not mean.is_floating_point():
                return current
            step = int(count)
            return torch.lerp(current, mean, min(decay, (1 + step) / (10 + step)))

        super().__init__(avg_fn=average)

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        # The model is not there yet; an average kept on the CPU would make every step wait.
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """The run's history, a row per epoch."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def write_config(settings: Settings, run: Path) -> None:
    """config.yaml, which reproduces the run."""
    with replacing(run / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(plain(settings) | {"resume": None}, sort_keys=False))


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as YAML and JSON take them."""

    def simple(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: simple(v) for k, v in value.items()}
        return [simple(v) for v in value] if isinstance(value, list | tuple) else value

    return simple(dataclasses.asdict(settings))
