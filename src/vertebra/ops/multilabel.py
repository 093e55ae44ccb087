"""Several classes per image: targets and losses.

Symbols: B images, C classes, p the probability of a class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

TINY = 1e-8
"""Least base of a power, whose gradient at 0 may be infinite, and least argument of a logarithm."""


def multi_hot(tags: Sequence[Tensor], num_classes: int) -> Tensor:
    """[B, C] float32: 1 at the classes of each image.

    Args:
        tags: per image [N] int64, or [C] float32, which stays as it is.
        num_classes: C.

    Raises:
        IndexError: if a class is not in 0..C - 1.
    """
    rows = [
        row if row.is_floating_point() else torch.zeros(num_classes, device=row.device).index_fill(0, row, 1.0)
        for row in tags
    ]
    return torch.stack(rows)


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_negative: float = 4.0, gamma_positive: float = 0.0, margin: float = 0.05
) -> Tensor:
    """Binary cross-entropy that counts easy examples less, negative ones more so: -(y L+ + (1 - y) L-) [B, C].

    L+ = (1 - p)^gamma_positive log(p); L- = q^gamma_negative log(1 - q) with q = max(p - margin, 0).

    Args:
        logits: [B, C].
        targets: y [B, C] in 0..1.
        gamma_negative: focusing parameter of classes that an image does not have, 0 or more.
        gamma_positive: of those that it has.
        margin: negatives of a lower probability have no loss, 0..1.

    Source: Asymmetric Loss For Multi-Label Classification, arXiv:2009.14119, equations 5 to 7.
    """
    logits = logits.float()
    p = logits.sigmoid()
    q = (p - margin).clamp(min=TINY)
    log_rest = (1 - q).clamp(min=TINY).log() if margin else logsigmoid(-logits)
    positive = (1 - p).clamp(min=TINY) ** gamma_positive * logsigmoid(logits)
    negative = q**gamma_negative * log_rest
    return -(targets * positive + (1 - targets) * negative)


def tag_cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the softmax with a target that is shared equally by an image's k classes, 1 / k each: the mean
    over the images that have a class; 0 if none has.

    Args:
        logits: [B, C].
        targets: [B, C] in 0..1.
        weight: [C], of each class.
        label_smoothing: share of the target, 0..1, that all classes have equally.

    Source: Exploring the Limits of Weakly Supervised Pretraining, arXiv:1805.00932, section 2.3.
    """
    totals = targets.sum(1)
    tagged = totals > 0
    shares = targets / totals.clamp(min=TINY)[:, None]
    losses = cross_entropy(logits.float(), shares, weight=weight, reduction="none", label_smoothing=label_smoothing)
    return (losses * tagged).sum() / tagged.sum().clamp(min=1)
