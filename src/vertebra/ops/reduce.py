"""Values over all processes of a training run."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, without a gradient; the tensor itself where there is one process.

    A loss that every process divides by the mean of their counts has the gradient of one process with all images:
    gradients are averaged over processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
