"""Losses of label maps.

Shapes: B batch, K classes, H x W pixels; labels are [B, H, W] int64, of which those of `ignored` count nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.nn.functional import cross_entropy as torch_cross_entropy


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ohem: float = 0.0,
    min_kept: int = 100_000,
    ignored: int = 255,
) -> Tensor:
    """Mean cross-entropy of the pixels of [B, K, H, W] logits.

    Args:
        weight: [K] weight of each class; the mean is weighted by it too, unless pixels are mined.
        label_smoothing: in 0..1.
        ohem: online hard example mining: pixels whose target class has a probability of at least this are left out, as
            far as `min_kept` hard ones remain; 0 keeps all.
        min_kept: pixels kept per batch at least.

    Source of the mining: arXiv:1604.03540, by a threshold as in HRNet's segmentation code.
    """
    if not ohem:
        total = torch_cross_entropy(
            logits, labels, weight, ignore_index=ignored, reduction="sum", label_smoothing=label_smoothing
        )
        valid = labels != ignored
        count = valid.sum() if weight is None else weight[labels[valid]].sum()
        return total / count.clamp(min=1e-6)  # 0 rather than NaN where all is ignored
    losses = torch_cross_entropy(
        logits, labels, weight, ignore_index=ignored, reduction="none", label_smoothing=label_smoothing
    )
    valid = labels != ignored
    with torch.no_grad():
        safe = torch.where(valid, labels, 0)
        probability = logits.softmax(1).gather(1, safe[:, None])[:, 0][valid]
        hardest = probability.kthvalue(min(min_kept, len(probability)))[0] if len(probability) else probability.sum()
        threshold = hardest.clamp(min=ohem)
    kept = losses[valid][probability <= threshold]
    return kept.sum() / max(1, len(kept))


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, ignored: int = 255) -> Tensor:
    """Mean of -(1 - p)^gamma log p over the pixels of [B, K, H, W] logits, p the probability of the target class.

    Source: Focal Loss, arXiv:1708.02002, equation 4, with the softmax's probabilities.
    """
    losses = torch_cross_entropy(logits, labels, ignore_index=ignored, reduction="none")
    valid = labels != ignored
    focused = (1 - torch.exp(-losses)) ** gamma * losses
    return focused[valid].sum() / valid.sum().clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor, *, ignored: int = 255) -> Tensor:
    """1 - 2 |P T| / (|P| + |T|), the mean over the classes that occur in the batch, of [B, K, H, W] logits.

    P are the softmax's probabilities, T the targets. Source: V-Net, arXiv:1606.04797, section 3, without squares.
    """
    probabilities, targets = _valid(logits, labels, ignored)
    support = targets.sum(0)
    dice = 2 * (probabilities * targets).sum(0) / (probabilities.sum(0) + support).clamp(min=1e-6)
    occurring = support > 0
    return ((1 - dice) * occurring).sum() / occurring.sum().clamp(min=1)


def lovasz_loss(logits: Tensor, labels: Tensor, *, ignored: int = 255) -> Tensor:
    """The Lovasz extension of 1 - IoU, the mean over the classes that occur in the batch, of [B, K, H, W] logits.

    Source: The Lovasz-Softmax Loss, arXiv:1705.08790, equations 8 to 11 and algorithm 1.
    """
    probabilities, targets = _valid(logits, labels, ignored)
    terms = []
    for share, target in zip(probabilities.unbind(1), targets.unbind(1), strict=True):
        if not target.any():
            continue
        errors, order = (target - share).abs().sort(descending=True)
        hits = target[order]
        intersection = hits.sum() - hits.cumsum(0)
        union = hits.sum() + (1 - hits).cumsum(0)
        jaccard = 1 - intersection / union
        gradient = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        terms.append(errors @ gradient)
    return torch.stack(terms).mean() if terms else logits.sum() * 0


def binary_loss(logits: Tensor, labels: Tensor, *, ignored: int = 255) -> Tensor:
    """Mean binary cross-entropy of the pixels of [B, H, W] logits for labels 0 and 1."""
    valid = labels != ignored
    losses = binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def iou_loss(logits: Tensor, labels: Tensor, *, ignored: int = 255) -> Tensor:
    """1 - the soft IoU of each image, mean over the images, of [B, H, W] logits for labels 0 and 1.

    Source: BASNet, CVPR 2019, equation 8.
    """
    valid = labels != ignored
    shares, mask = logits.sigmoid() * valid, ((labels == 1) & valid).to(logits.dtype)
    intersection = (shares * mask).sum((1, 2))
    union = shares.sum((1, 2)) + mask.sum((1, 2)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def _valid(logits: Tensor, labels: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot targets [N, K] of the pixels that are not ignored."""
    valid = labels != ignored
    probabilities = logits.float().softmax(1).movedim(1, -1)[valid]
    return probabilities, one_hot(labels[valid], logits.shape[1]).to(probabilities.dtype)
