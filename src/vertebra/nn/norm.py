"""Replacing batch norm throughout a network by another kind of norm."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vertebra.errors import one_of

if TYPE_CHECKING:
    from torchvision.ops import FrozenBatchNorm2d

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
    make = {"frozen": _frozen, "group": _group, "sync": nn.SyncBatchNorm.convert_sync_batchnorm}.get(kind)
    for module in list(network.modules()) if make else ():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _followed(make(child), child))  # type: ignore[misc]
    if eps is not None:
        for module in network.modules():
            if is_frozen(module):
                module.eps = eps
    return network


class _Activated(nn.Module):
    """Mixed into a norm: the dropout and activation that timm's batch norms have in them, after it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


@cache
def _activated(kind: Any) -> Any:
    return type(f"Activated{kind.__name__}", (_Activated, kind), {})


def _followed(made: nn.Module, norm: nn.Module) -> nn.Module:
    """`made`, which replaces `norm`, with what follows inside of that; the names of tensors stay."""
    if hasattr(norm, "act"):
        made.__class__ = _activated(type(made))  # type: ignore[arg-type]
        made.drop, made.act = getattr(norm, "drop", nn.Identity()), norm.act
    return made


def has_norms(network: nn.Module) -> bool:
    """Whether `network` has a batch norm, frozen ones included."""
    return any(isinstance(module, _BatchNorm) or is_frozen(module) for module in network.modules())


def is_frozen(norm: nn.Module) -> TypeGuard[FrozenBatchNorm2d]:
    """Whether a norm is torchvision's FrozenBatchNorm2d; if it is, torchvision, which is slow to import, is there."""
    ops = sys.modules.get("torchvision.ops")
    return ops is not None and isinstance(norm, ops.FrozenBatchNorm2d)


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

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
