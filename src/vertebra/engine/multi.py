"""Training several heads over one backbone, and evaluating them.

In every step the images of all heads that take part pass the backbone together, and the weighted sum of their losses is
minimised: the backbone sees in each step what all heads need, batch norms see the images of all, and each head takes as
many steps as it would alone. Drawing one head per step instead would give each a fraction of the steps, gradients that
pull in turns, and batch norms whose statistics are those of no head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from vertebra import kinds, tasks
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.heads import HeadBatches, InTurn, together
from vertebra.engine import checkpoint
from vertebra.engine import train as single
from vertebra.engine import trainer as trainers
from vertebra.engine.devices import is_first_process
from vertebra.engine.evaluate import evaluate
from vertebra.engine.freezing import Freezing
from vertebra.engine.head_settings import MultiSettings
from vertebra.engine.resume import Facts, StoppedRun
from vertebra.engine.settings import Settings, plain
from vertebra.engine.trainee import RunHistory, Trainee
from vertebra.engine.trainer import Echo
from vertebra.errors import VertebraError, escaped
from vertebra.kinds import Kind
from vertebra.metrics.evaluation import Evaluation
from vertebra.metrics.heads import MEAN, HeadMetrics
from vertebra.structures import Preprocess
from vertebra.tasks import Plan, Task, multi
from vertebra.tasks.multi import MultiTask
from vertebra.viz import report


class WeightedLosses(nn.Module):
    """The terms of the losses of all heads that take part in a step, multiplied by their weights.

    With `uncertainty`, the loss L of a head becomes exp(-s) L + s / 2, where s, the logarithm of the variance, is
    learned: a head whose loss stays large weighs less. One variance per head; their weight decay is 0.

    Source: arXiv:1705.07115, equation 10.
    """

    def __init__(self, weights: Mapping[str, float], *, uncertainty: bool) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.log_variances = nn.Parameter(torch.zeros(len(weights))) if uncertainty else None

    def forward(self, task: Task, batch: Any) -> dict[str, Tensor]:
        assert isinstance(task, MultiTask)
        assert isinstance(batch, HeadBatches)
        terms: dict[str, Tensor] = {}
        with task.backbone.sharing([part.images for part in batch.parts.values()]):
            for name, part in batch.parts.items():
                if not part.targets:
                    raise VertebraError(f"no training image of head {name!r} can be read: {part.unreadable[0]}")
                losses = task.head(name).loss(part.images, part.targets)
                factor: Tensor | float = self.weights[name]
                if self.log_variances is not None and factor:  # without a loss, s / 2 has no minimum
                    s = self.log_variances[list(self.weights).index(name)]
                    factor = factor * torch.exp(-s)
                    terms[f"{name}/log_deviation"] = s / 2
                terms |= {f"{name}/{key}": factor * value for key, value in losses.items()}
        return terms


class MultiTrainee(Trainee):
    """Trains and validates a MultiTask on HeadBatches."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        task, metrics = self.task, self.metrics
        assert isinstance(task, MultiTask)
        assert isinstance(metrics, HeadMetrics)
        self.note_unreadable(batch)
        for name, part in batch.parts.items():
            if part.targets:
                metrics.heads[name].update(task.head(name).infer(part.images, part.frames), part.targets)


@dataclass
class Part:
    """A head and its data."""

    settings: Settings
    kind: Kind
    catalogue: Catalogue
    plan: Plan
    preprocess: Preprocess

    @staticmethod
    def of(settings: Settings) -> Part:
        kind = kinds.find(tasks.find(settings.task, settings.method).MODEL.kind)
        catalogue = single.open_catalogue(settings, None, kind)
        plan = single.make_plan(settings, kind, catalogue)
        return Part(settings, kind, catalogue, plan, single.make_preprocess(settings, plan, kind.resize_modes))


def train(settings: MultiSettings, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()) -> single.Run:
    """Trains, saves the best model, evaluates every head and writes its report into a folder of its name.

    Args:
        settings: of the run, as `head_settings.resolve_heads` makes them.
        callbacks: further ones.
        loggers: those beside the ones named in the settings.

    Raises:
        VertebraError: for every mistake of the user.
    """
    single.check_machine(settings)
    trainers.silence_lightning()
    echo = print if is_first_process() else single.silent
    stopped = StoppedRun.open(settings.resume) if settings.resume else None
    parts: dict[str, Part] = {}
    for name in settings.heads:
        try:
            parts[name] = Part.of(settings.of_head(name))
            single.check_machine(parts[name].settings)
        except VertebraError as error:
            raise VertebraError(f"head {name!r}: {error}") from error
    data = _all_data(parts)
    if stopped:
        stopped.check_data(Kind(), data)
    L.seed_everything(settings.seed, verbose=False)
    task = multi.build(
        {name: part.plan for name, part in parts.items()},
        {name: part.preprocess for name, part in parts.items()},
        share_necks=settings.trunk()["share_necks"],
    )
    if settings.monitor != MEAN:
        task.monitor = f"{settings.monitor}/{task.head(settings.monitor).monitor}"  # type: ignore[misc]
    settings = replace(settings, model=settings.trunk())
    if stopped:
        stopped.check_model(settings, task.config)
    for name, part in parts.items():
        task.origins[name] = single.origin(part.settings, None, part.kind)
        if settings.weights and (filled := task.head(name).report):
            echo(f"{name}: {filled}")
    Freezing(task, settings)  # before anything is written
    samples = {
        name: single.make_samples(part.settings, part.kind, part.catalogue, task.head(name))
        for name, part in parts.items()
    }
    folder = stopped.folder if stopped else single.new_folder(settings, task.config)
    _announce(settings, parts, task, folder, echo)
    loaders = (_training(settings, parts, samples, task), _validation(parts, samples, task))
    losses = WeightedLosses(
        {name: settings.head(name).weight for name in parts}, uncertainty=settings.weighting == "uncertainty"
    )
    history = RunHistory(folder, echo, {})
    trainer = trainers.create(settings, task, folder, history, [Facts(settings, task, data), *callbacks], loggers)
    trainee = MultiTrainee(task, settings, losses)
    trainers.fit(trainer, trainee, loaders, folder, stopped, echo)
    best = history.best_epoch()
    metrics = best["metrics"]
    if trainer.is_global_zero:
        metrics = _finish(settings, parts, samples, folder, history, trainee, echo)
    return single.Run(folder, folder / "best.safetensors", best["epoch"], metrics, history.history, history.stopped)


def _all_data(parts: Mapping[str, Part]) -> Catalogue:
    """The data of all heads, for what a resumed run compares."""
    classes = [f"{name}: {label}" for name, part in parts.items() for label in part.catalogue.classes]
    splits = {f"{name} {s}": samples for name, part in parts.items() for s, samples in part.catalogue.splits.items()}
    return Catalogue("", "", tuple(classes), splits)


def _training(
    settings: MultiSettings,
    parts: Mapping[str, Part],
    samples: Mapping[str, Mapping[str, list[Sample]]],
    task: MultiTask,
) -> Any:
    loaders = {}
    for name, part in parts.items():
        alone = replace(part.settings, data=replace(part.settings.data, workers=0))
        loaders[name] = single.training_batches(
            alone,
            samples=samples[name]["train"],
            task=task.head(name),
            kind=part.kind,
            catalogue=part.catalogue,
            transforms=None,
        )
    return together(loaders, {name: settings.head(name).share for name in parts}, settings.data.workers)


def _validation(
    parts: Mapping[str, Part], samples: Mapping[str, Mapping[str, list[Sample]]], task: MultiTask
) -> InTurn:
    return InTurn(
        {
            name: single.validation_batches(
                part.settings, samples[name]["val"], task.head(name), part.kind, part.catalogue
            )
            for name, part in parts.items()
        }
    )


def _announce(settings: MultiSettings, parts: Mapping[str, Part], task: MultiTask, folder: Path, echo: Echo) -> None:
    shared = sum(p.numel() for part in (task.backbone, *task.shared_necks) for p in part.parameters())
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    total = sum(p.numel() for p in task.parameters())
    echo(f"{task.config.backbone}: {total:,} parameters, {shared:,} of them shared, {trained:,} trained")
    for name, part in parts.items():
        catalogue, head = part.catalogue, settings.head(name)
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in catalogue.splits.items())
        how = f"weight {head.weight:g}, share {head.share:g}"
        echo(f"{name} ({head.task}, {task.head(name).method}): {catalogue.path}, {counts} {part.kind.items}; {how}")
        single.echo_notes(catalogue, echo)
    echo(f"results in {folder}")


def _finish(
    settings: MultiSettings,
    parts: Mapping[str, Part],
    samples: Mapping[str, Mapping[str, list[Sample]]],
    folder: Path,
    history: RunHistory,
    trainee: Trainee,
    echo: Echo,
) -> dict[str, Any]:
    """Evaluates the heads of the best model and writes their reports; returns the metrics, named as in validation."""
    device = trainee.trainer.strategy.root_device
    task, about = checkpoint.load_heads(folder / "best.safetensors", device=device)
    metrics: dict[str, Any] = {}
    scores = []
    for name, part in parts.items():
        evaluation = evaluate(
            task.take_out(name),
            samples[name]["val"],
            batch_size=part.settings.data.known_batch_size // trainee.trainer.world_size,
            workers=part.settings.data.workers,
            metric_options=part.kind.metric_options(about["heads"][name], part.catalogue),
        )
        metrics |= {f"{name}/{key}": value for key, value in evaluation.metrics.items()}
        scores.append(evaluation.metrics.get(task.head(name).monitor, 0.0))
        problems = [*part.catalogue.problems, *evaluation.unreadable]
        write_report(
            folder / name,
            f"{name} of {task.config.backbone} on {part.catalogue.path}",
            part.kind,
            evaluation,
            samples[name]["val"],
            problems=problems,
            history=_of_head(history.history, name),
            config=yaml.safe_dump(plain(settings), sort_keys=False),
        )
        for sentence in evaluation.unreadable:
            echo(escaped(f"skipped: {sentence}"))
        monitor = task.head(name).monitor
        noun = part.kind.noun(samples[name]["val"])
        echo(f"best: {name} {monitor} {scores[-1]:.4f} on {len(evaluation.rows)} val {noun}")
    for sentence in trainee.unreadable:
        echo(escaped(f"skipped: {sentence}"))
    echo(f"best: {MEAN} {sum(scores) / len(scores):.4f}, from epoch {about['epoch']}")
    echo(f"look at {folder / next(iter(parts)) / 'report.html'}, and at that of each other head")
    echo(f"next: vertebra predict {folder / 'best.safetensors'} IMAGE --save=out/")
    return {MEAN: sum(scores) / len(scores), **metrics}


def write_report(
    folder: Path, title: str, kind: Kind, evaluation: Evaluation, samples: Sequence[Sample], **more: Any
) -> None:
    """Writes evaluation.json and report.html of one head into its folder; further arguments as for `report.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder, title=title, kind=kind, evaluation=evaluation, samples=samples, **more)


def _of_head(history: Sequence[Mapping[str, float]], name: str) -> list[dict[str, float]]:
    """The rows of a run's history with the losses and metrics of one head, by its names, and what is of no head."""
    rows = []
    for row in history:
        kept = {key: value for key, value in row.items() if "/" not in key}
        for split in ("train", "val"):
            prefix = f"{split}/{name}/"
            kept |= {f"{split}/{key.removeprefix(prefix)}": v for key, v in row.items() if key.startswith(prefix)}
        rows.append(kept)
    return rows
