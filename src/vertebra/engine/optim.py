"""Optimiser, its parameter groups, and the learning rate schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
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


def optimizer(task: Task, settings: Settings) -> torch.optim.Optimizer:
    """The run's optimiser over the task's trainable parameters."""
    groups = parameter_groups(task, lr=settings.peak_lr, weight_decay=settings.decay, layer_decay=settings.layer_decay)
    # On a CPU torch's default is a loop over the parameters; elsewhere it chooses well. Lightning clips no gradients
    # for a fused optimiser in mixed precision.
    cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
    fused = True if cpu and settings.precision == "32-true" else None
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.peak_lr, momentum=settings.momentum, nesterov=nesterov, fused=fused)
    return torch.optim.AdamW(groups, settings.peak_lr, betas=(settings.momentum, 0.999), fused=fused)


def schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, final_lr_ratio: float) -> LambdaLR:
    """Linear from 0 over `warmup` steps, then a cosine from each group's rate to rate * final_lr_ratio at step `steps`.

    Source: SGDR, arXiv:1608.03983, equation 5, with one cycle.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return final_lr_ratio + (1 - final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)
