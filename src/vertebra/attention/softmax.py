"""Softmax over the positions that a mask allows."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(scores: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
    """Softmax along `dim` over the positions where `mask` is True; the others are exactly 0.

    Args:
        scores: of any shape and float dtype.
        mask: bool, broadcastable to `scores`; True = may attend. None allows all.

    Returns:
        As `scores`, in 0..1, summing to 1 along `dim`; zeros, not NaN, where the mask allows nothing.
    """
    if scores.dtype == torch.float16:  # whose products overflow
        limits = torch.finfo(scores.dtype)
        scores = scores.clamp(limits.min, limits.max)
    if mask is None:
        return scores.softmax(dim)
    # The lowest finite number, since a row of -inf has NaN for softmax and for gradient.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim).masked_fill(~mask, 0)
