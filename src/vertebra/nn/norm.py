"""Replacing batch norm throughout a network by another kind of norm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from vertebra.errors import one_of

NORMS = ("batch", "frozen", "sync", "group")
"""`batch` norm; batch norm `frozen` at the statistics and weights it has; `sync`, over the images of all processes;
`group` norm of 32 groups, for batches of one or two images."""


def replace_norm(network: nn.Module, kind: str, eps: float | None = None) -> nn.Module:
    """Replaces every batch norm inside `network`, in place, by another kind of norm with its weights; returns it.

    Args:
        kind: one of NORMS.
        eps: added to the variance by frozen norms; unchanged if None.

    Raises:
        VertebraError: if there is no such kind.
    """
    one_of("norm", kind, NORMS)
    if kind == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    make = {"frozen": _frozen, "group": _group}.get(kind)
    for module in list(network.modules()) if make else ():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, make(child))  # type: ignore[misc]
    if eps is not None:
        for module in network.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = eps
    return network


def has_norms(network: nn.Module) -> bool:
    """Whether `network` has a batch norm, frozen ones included."""
    return any(isinstance(module, _BatchNorm | FrozenBatchNorm2d) for module in network.modules())


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps).to(norm.weight.device)
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(frozen, name, getattr(norm, name).detach().clone())
    return frozen


def _group(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    """32 groups where the channels allow it, else as many as divide them.

    Source: arXiv:1803.08494, section 4.
    """
    channels = norm.num_features
    groups = next(count for count in range(32, 0, -1) if channels % count == 0)
    made = nn.GroupNorm(groups, channels, norm.eps).to(norm.weight.device)
    with torch.no_grad():
        made.weight.copy_(norm.weight)
        made.bias.copy_(norm.bias)
    return made
