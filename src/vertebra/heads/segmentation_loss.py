"""Losses of semantic segmentation and saliency: weighted sums of losses of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vertebra.errors import VertebraError, in_range
from vertebra.ops.pixel_losses import binary_loss, cross_entropy, dice_loss, focal_loss, iou_loss, lovasz_loss


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss: the weights of its terms, and their options."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    dice: float = 0.0
    """Weight of the Dice loss."""
    lovasz: float = 0.0
    """Weight of the Lovasz-softmax loss."""
    focal: float = 0.0
    """Weight of the focal loss."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy, in 0..1."""
    ohem: float = 0.0
    """Online hard example mining of the cross-entropy: pixels whose target class has at least this probability are left
    out; 0 keeps all."""
    ohem_min_kept: int = 100_000
    """Pixels of a batch that mining keeps at least."""

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "dice", "lovasz", "focal"):
            in_range(f"loss.{name}", getattr(self, name), 0, 1_000_000)
        in_range("loss.focal_gamma", self.focal_gamma, 0, 100)
        for name in ("label_smoothing", "ohem"):
            in_range(f"loss.{name}", getattr(self, name), 0, 1)
        in_range("loss.ohem_min_kept", self.ohem_min_kept, 1, 1_000_000_000)
        if not any((self.cross_entropy, self.dice, self.lovasz, self.focal)):
            raise VertebraError("every term of the loss has the weight 0: give loss.cross_entropy or another.")

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            logits: [B, K, H, W].
            labels: [B, H, W] int64; 255 is ignored.
            weight: [K] weight of each class in the cross-entropy.
        """
        logits = logits.float()
        terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cross_entropy": partial(
                cross_entropy,
                weight=weight,
                label_smoothing=self.label_smoothing,
                ohem=self.ohem,
                min_kept=self.ohem_min_kept,
            ),
            "dice": dice_loss,
            "lovasz": lovasz_loss,
            "focal": partial(focal_loss, gamma=self.focal_gamma),
        }
        return _weighted(self, terms, logits, labels)


def _weighted(
    loss: Any, terms: Mapping[str, Callable[[Tensor, Tensor], Tensor]], logits: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The terms whose weight, the field of `loss` of their name, is not 0."""
    weights = {name: getattr(loss, name) for name in terms}
    return {name: weight * terms[name](logits, labels) for name, weight in weights.items() if weight}


@dataclass(frozen=True)
class SaliencyLoss:
    """The loss: the weights of its terms."""

    cross_entropy: float = 1.0
    """Weight of the binary cross-entropy."""
    iou: float = 1.0
    """Weight of the IoU loss."""

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "iou"):
            in_range(f"loss.{name}", getattr(self, name), 0, 1_000_000)
        if not (self.cross_entropy or self.iou):
            raise VertebraError("every term of the loss has the weight 0: give loss.cross_entropy or loss.iou.")

    def __call__(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted terms, of logits [B, H, W] for labels [B, H, W] int64 0 and 1; 255 is ignored."""
        return _weighted(self, {"cross_entropy": binary_loss, "iou": iou_loss}, logits.float(), labels)
