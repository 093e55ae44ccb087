"""Optimiser, its parameter groups, and the learning rate schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from vertebra.engine.settings import Settings
from vertebra.tasks import Task


def parameter_groups(task: Task, *, lr: float, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay.

    Layer `i` of the n `parameter_layers` gets lr * layer_decay ** (n - i); all other parameters, the head, get lr.
    Biases, norms and everything else of fewer than two dimensions are not decayed (Bag of Tricks, arXiv:1812.01187,
    section 3.1), nor are the parameters that the task names in `no_weight_decay`.
    """
    layers = task.parameter_layers()
    depth = {id(p): i for i, layer in enumerate(layers) for p in layer.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            scale = layer_decay ** (len(layers) - depth.get(id(parameter), len(layers)))
            decayed = parameter.ndim > 1 and name.rpartition(".")[2] not in task.no_weight_decay
            groups[lr * scale, weight_decay if decayed else 0.0].append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def optimizer(task: Task, settings: Settings, further: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The run's optimiser over the task's trainable parameters and `further` weights, which are trained as a head's."""
    weights = list(further)
    groups = parameter_groups(task, lr=settings.peak_lr, weight_decay=settings.decay, layer_decay=settings.layer_decay)
    for decayed, more in ((True, [p for p in weights if p.ndim > 1]), (False, [p for p in weights if p.ndim < 2])):
        if more:
            groups.append({"params": more, "lr": settings.peak_lr, "weight_decay": settings.decay if decayed else 0.0})
    # On a CPU torch's default is a loop over the parameters; elsewhere it chooses well. Lightning clips no gradients
    # for a fused optimiser in mixed precision, and torch has no fused SGD of divided parameters.
    whole = all(p.device.type == "cpu" and not isinstance(p, DTensor) for group in groups for p in group["params"])
    fused = True if whole and settings.precision == "32-true" else None
    lr, momentum = settings.peak_lr, settings.momentum
    match settings.optimizer:
        case "sgd":
            nesterov = settings.nesterov and momentum > 0
            return torch.optim.SGD(groups, lr, momentum=momentum, nesterov=nesterov, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr, betas=(momentum, 0.999), fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr, betas=(momentum, 0.999), fused=fused)
        case "rmsprop":  # decay 0.9 as in EfficientNetV2; its 0.001 is inside the root, where torch's epsilon is not
            return torch.optim.RMSprop(groups, lr, alpha=0.9, eps=0.001**0.5, momentum=momentum)


@dataclass(frozen=True)
class Position:
    """Where in the run an optimiser's step is."""

    step: int
    """From 0, and not before the end of warmup."""
    steps: int
    """Of the run."""
    warmup: int
    """Of them before the schedule begins."""

    @property
    def share(self) -> float:
        """Share of the steps after warmup that are done, in 0..1."""
        return min(1.0, (self.step - self.warmup) / max(1, self.steps - self.warmup))


def cosine(at: Position, settings: Settings) -> float:
    """Half a cosine from 1 to final_lr_ratio. Source: SGDR, arXiv:1608.03983, equation 5, with one cycle."""
    return _between(settings.final_lr_ratio, 1.0, (1 + math.cos(math.pi * at.share)) / 2)


def step(at: Position, settings: Settings) -> float:
    """1, multiplied by step_gamma after each of step_epochs."""
    epoch = at.step * settings.epochs / at.steps
    return float(settings.step_gamma ** sum(epoch >= end for end in settings.step_epochs))


def poly(at: Position, settings: Settings) -> float:
    """The share of steps left to the power of poly_power, ending at final_lr_ratio. Source: DeepLab, arXiv:1606.00915,
    section 4.1.1."""
    return _between(settings.final_lr_ratio, 1.0, (1 - at.share) ** settings.poly_power)


def one_cycle(at: Position, settings: Settings) -> float:
    """Half a cosine from 1 / 25 up to 1 in a share of one_cycle_rise, and another down to final_lr_ratio.

    Momentum stays. Source: Super-Convergence, arXiv:1708.07120, section 3, with the curve and the start of torch's
    OneCycleLR.
    """
    rise = settings.one_cycle_rise
    if at.share < rise:
        return _between(1 / 25, 1.0, (1 - math.cos(math.pi * at.share / rise)) / 2)
    fallen = (at.share - rise) / max(1e-9, 1 - rise)
    return _between(settings.final_lr_ratio, 1.0, (1 + math.cos(math.pi * fallen)) / 2)


def constant(at: Position, settings: Settings) -> float:
    """1."""
    return 1.0


def inverse_sqrt(at: Position, settings: Settings) -> float:
    """1 at the end of warmup, then by the inverse square root of the step. Source: Attention Is All You Need,
    arXiv:1706.03762, equation 3."""
    return math.sqrt((at.warmup + 1) / (at.step + 1))


SCHEDULES = {
    "cosine": cosine,
    "step": step,
    "poly": poly,
    "one_cycle": one_cycle,
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
}
"""Factors on the learning rate after warmup, by the name of the setting."""


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, *, steps: int) -> LambdaLR:
    """The run's schedule over `steps` steps, behind a linear rise from 0 in warmup."""
    warmup = settings.warmup_steps or round(steps * min(1.0, settings.warmup / settings.epochs))

    def factor(step: int) -> float:
        after = SCHEDULES[settings.schedule](Position(max(step, warmup), steps, warmup), settings)
        return after * min(1.0, (step + 1) / (warmup + 1))

    return LambdaLR(optimizer, factor)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
