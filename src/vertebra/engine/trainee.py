"""The one LightningModule, and the callbacks that keep its history and average its weights."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from vertebra.data.loader import Batch, counted_seed
from vertebra.engine import checkpoint, optim, sharding
from vertebra.engine.freezing import Freezing
from vertebra.engine.progressive import GrowingDropout, share
from vertebra.engine.settings import Settings, plain
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.progress import on_terminal
from vertebra.tasks import Task


class Trainee(L.LightningModule):
    """Any task, any backbone.

    Args:
        task: the model.
        settings: of the run.
        distiller: computes the terms of the loss for a batch, (task, batch) -> terms, where there is a teacher; its
            parameters are trained as well.
    """

    def __init__(self, task: Task, settings: Settings, distiller: nn.Module | None = None) -> None:
        super().__init__()
        self.task = task.to(memory_format=torch.channels_last)  # what convolutions compute fastest in
        self.settings = settings
        self.distiller = distiller
        self.metrics = task.metrics()
        self.unreadable: dict[str, None] = {}  # an ordered set of sentences
        task.checkpoint_activations(settings.checkpointing)
        self.freezing = Freezing(task, settings)
        self.dropout = GrowingDropout(task)

    def configure_model(self) -> None:
        """Divides the model among the processes where the strategy does; once, of the times that Lightning asks."""
        strategy = self.trainer.strategy
        if isinstance(strategy, sharding.Sharded) and not isinstance(self.task, FSDPModule):
            sharding.shard(self.task, strategy.device_mesh["data_parallel"], strategy.root_device)

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The run's optimiser, in its first state."""
        further = () if self.distiller is None else self.distiller.parameters()
        return optim.optimizer(self.task, self.settings, further)

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = optim.schedule(optimizer, self.settings, steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """A resumed run takes learning rates and weight decays from its present settings, not from the stored state."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        fresh = self.new_optimizer().param_groups
        for group, new, factor in zip(optimizer.param_groups, fresh, scheduler.lr_lambdas, strict=True):
            group.update({key: value for key, value in new.items() if key != "params"}, initial_lr=new["lr"])
            group["lr"] = new["lr"] * factor(scheduler.last_epoch)
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def on_train_epoch_start(self) -> None:
        self.freezing.start(self.current_epoch)
        self.dropout.start(share(self.settings, self.current_epoch))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout and drop path draw from a seed that counts, so a resumed run needs no generator's state.
        torch.manual_seed(counted_seed(self.settings.seed, self.current_epoch, batch_idx, self.global_rank))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch.channels_last()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if self.trainer.training:
            return batch.to(device, non_blocking=device.type == "cuda")
        # Ground truth is used by the metrics alone, at the images' original size, on the CPU.
        return batch.images_to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.note_unreadable(batch)
        if len(batch.targets) == batch.unlabelled:
            raise VertebraError(f"no training image can be read: {batch.unreadable[0]}")
        if self.distiller is None:
            terms = self.task.loss(batch.images, batch.targets)
        else:
            terms = self.distiller(self.task, batch)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{name} = {float(value):g}" for name, value in terms.items())
            raise self.diverged(f"at epoch {self.current_epoch + 1}, step {batch_idx + 1} ({values})")
        size = len(batch.targets)
        logged = {f"train/{name}": value for name, value in terms.items()} if len(terms) > 1 else {}
        logged["train/loss"] = total
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=size, prog_bar=True, sync_dist=True)
        return total

    def on_train_batch_end(self, *_: Any) -> None:
        """After the callbacks: where one of them has stopped the trainer, what was trained so far is validated."""
        if self.trainer.should_stop:
            self.trainer.check_val_every_n_epoch = 1

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.note_unreadable(batch)
        if batch.targets:
            self.metrics.update(self.task.infer(batch.images, batch.frames), batch.targets)

    def diverged(self, where: str) -> VertebraError:
        return VertebraError(
            f"the loss is not finite {where}: lower lr (now {self.settings.peak_lr:g}), set clip, or lengthen warmup. "
            "What was saved is kept."
        )

    def note_unreadable(self, batch: Batch) -> None:
        for sentence in batch.unreadable:
            if self.settings.strict:
                raise VertebraError(f"{sentence} (without --strict it is skipped and listed)")
            self.unreadable[sentence] = None

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        state["unreadable"] = list(self.unreadable)

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        self.unreadable = dict.fromkeys(state["unreadable"])


class RunHistory(L.Callback):
    """Computes the validation metrics, saves the best model and the history of the run.

    It stands before the weight averaging in the list of callbacks, so that at the end of a validation it sees the
    averaged weights, which were validated.

    Args:
        folder: of the run.
        echo: called with the line of each epoch.
        about: further entries of the description in best.safetensors.
    """

    def __init__(self, folder: Path, echo: Callable[[str], None], about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.echo = echo
        self.about = about
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.stopped = ""
        """Why training ended before its last epoch; empty if it did not."""
        self.waited = self.worked = self.moment = self.began = 0.0
        self.validated = False

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Trainee)
        for logger in trainer.loggers:
            logger.log_hyperparams(plain(module.settings))

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
        score = values.get(module.task.monitor, 0.0)  # average precision is undefined without any object
        trainer.callback_metrics["val/score"] = torch.tensor(score)  # watched by early stopping, on every process
        if self.best is None or score > self.best["score"]:
            epoch = trainer.current_epoch + 1
            self.best = {"score": score, "epoch": epoch, "metrics": values}
            state = sharding.whole(module.task.state_dict())
            if trainer.is_global_zero:
                numbers = {
                    k: value for k, value in values.items() if isinstance(value, float) or k.endswith("thresholds")
                }
                path = self.folder / "best.safetensors"
                checkpoint.save(module.task, path, state, metrics=numbers, epoch=epoch, **self.about)

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
            write_config(module.settings, self.folder)
        write_csv(self.folder / "metrics.csv", self.history)
        shown = [name for name in module.metrics.names if f"val/{name}" in row][:6]  # the most important ones
        self.echo(self._line(row, shown, trainer.max_epochs))

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        epoch = len(self.history)
        if not trainer.should_stop or epoch == trainer.max_epochs:
            self.stopped = ""
            return
        reasons = [stopper.stopping_reason_message for stopper in trainer.early_stopping_callbacks]
        reason = self.stopped or next(filter(None, reasons), "") or "a callback has stopped the trainer"
        self.stopped = f"stopped after epoch {epoch}: {reason}"
        if trainer.is_global_zero:
            self.echo(self.stopped)

    def _line(self, row: Mapping[str, float], names: Sequence[str], epochs: int | None) -> str:
        """The line of an epoch, with those of its metrics, the most important first, that a terminal has room for."""
        parts = [f"epoch {row['epoch']}/{epochs}  {row['seconds']:.1f} s  train loss {row['train/loss']:.4f}"]
        star = " *" if self.best and self.best["epoch"] == row["epoch"] else ""
        room = shutil.get_terminal_size().columns - len(star) if on_terminal() else math.inf
        for name in names:
            part = f"{'' if len(parts) > 1 else 'val '}{name} {row[f'val/{name}']:.4f}"
            if len("  ".join([*parts, part])) > room:
                break
            parts.append(part)
        return "  ".join(parts) + star

    def best_epoch(self) -> dict[str, Any]:
        """Epoch, score and metrics of the best validation. VertebraError if there was none."""
        if self.best is None:  # the last epoch is always validated, and so is one in which a callback stops
            raise VertebraError(
                f"{self.stopped or 'training ended'}, before the first validation, so there is no best model; what was "
                f"trained is in {self.folder / 'last.ckpt'}: go on from it with --resume={self.folder}."
            )
        return self.best

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best = state["history"], state["best"]


class Patience(EarlyStopping):
    """Stops after a number of validations without improvement, and gives the reason in `history.stopped`."""

    def __init__(self, patience: int, history: RunHistory) -> None:
        super().__init__("val/score", patience=patience, mode="max", check_on_train_epoch_end=True, strict=False)
        self.history = history

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        best = self.history.best
        if trainer.should_stop and best is not None:
            assert isinstance(module, Trainee)
            self.history.stopped = (
                f"val {module.task.monitor} has not improved on {best['score']:.4f} (epoch {best['epoch']}) "
                f"for {self.wait_count} validation{'s' * (self.wait_count != 1)}"
            )


class Average(WeightAveraging):
    """Exponential moving average whose decay rises to its value, so that short runs do not stay near their start.

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
        # The model is not on its device yet; an average kept on the CPU would make every step wait.
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """The run's history, a row per epoch."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def write_config(settings: Settings, folder: Path) -> None:
    """config.yaml, which reproduces the run."""
    left_out = settings.left_out
    content = plain(settings)
    content["data"] = {key: value for key, value in content["data"].items() if f"data.{key}" not in left_out}
    content = {  # an empty group has no flags
        key: value for key, value in content.items() if value != {} and key not in left_out
    }
    alone = {key: None for key in ("recipe", "resume") if key not in left_out}  # what they say is among the rest
    with replacing(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(content | alone, sort_keys=False))
