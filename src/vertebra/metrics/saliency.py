"""Metrics of salient object detection.

Symbols: H x W pixels, S saliency map in 0..1, G ground truth mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate, distance_transform_edt
from torch import Tensor
from torchmetrics import Metric

from vertebra.structures import IGNORED, Prediction, Target

Array = NDArray[Any]

EPS = float(np.spacing(1))  # MATLAB's eps, in which the measures were published
THRESHOLDS = 256
"""Of the curves: a pixel is salient at threshold t if floor(255 S) >= 255 - t."""


def stretched(saliency: Array) -> Array:
    """[H, W] in 0..1 -> [H, W] float64 from 0 to 1, linearly; constant maps stay as they are.

    All published scores are of stretched maps. Multiples of 1/255, as image files have them, count as exact.
    """
    levels = saliency.astype(np.float64) * 255
    levels = np.where(np.abs(levels - levels.round()) < 1e-4, levels.round(), levels) / 255
    low, high = levels.min(), levels.max()
    return levels if low == high else (levels - low) / (high - low)


def mean_absolute_error(saliency: Array, mask: Array) -> float:
    """Mean of |S - G|. Source: Perazzi et al., "Saliency filters", CVPR 2012, equation 8."""
    return float(np.abs(saliency - mask).mean())


def f_curve(saliency: Array, mask: Array, beta2: float = 0.3) -> Array:
    """F-measure [256] at falling thresholds.

    F = (1 + beta2) P R / (beta2 P + R), 0 where nothing of the mask is salient. Source: Achanta et al.,
    "Frequency-tuned salient region detection", CVPR 2009, equation 12.
    """
    hits, salient = _counts(saliency, mask)
    precision = hits / np.maximum(salient, 1)
    recall = hits / max(1, int(mask.sum()))
    denominator = beta2 * precision + recall
    return (1 + beta2) * precision * recall / np.where(hits == 0, 1, denominator)


def e_curve(saliency: Array, mask: Array) -> Array:
    """E-measure [256] at falling thresholds: the mean over pixels of the enhanced alignment (1 + A)^2 / 4.

    A = 2 f g / (f^2 + g^2) of the binary map f and the mask g, each less its mean. Source: Fan et al.,
    "Enhanced-alignment measure", IJCAI 2018, equations 3 to 5; divided by H W - 1, as its authors' code does.
    """
    hits, salient = _counts(saliency, mask)
    size, foreground = mask.size, int(mask.sum())
    if foreground == 0:
        return (size - salient) / (size - 1 + EPS)
    if foreground == size:
        return salient / (size - 1 + EPS)
    total = np.zeros(THRESHOLDS)
    for value, number_in_mask, number_outside in (
        (1, hits, salient - hits),
        (0, foreground - hits, size - foreground - salient + hits),
    ):
        f = value - salient / size
        for g, number in ((1 - foreground / size, number_in_mask), (-foreground / size, number_outside)):
            alignment = 2 * f * g / (f**2 + g**2 + EPS)
            total += number * (alignment + 1) ** 2 / 4
    return total / (size - 1 + EPS)


def _counts(saliency: Array, mask: Array) -> tuple[Array, Array]:
    """Of each threshold, the salient pixels in the mask and all salient pixels: [256] each."""
    levels = (saliency * 255).astype(np.uint8)
    inside = np.bincount(levels[mask], minlength=THRESHOLDS)[::-1].cumsum()
    outside = np.bincount(levels[~mask], minlength=THRESHOLDS)[::-1].cumsum()
    return inside, inside + outside


def s_measure(saliency: Array, mask: Array, alpha: float = 0.5) -> float:
    """Structure measure: alpha times the similarity of the object, the rest that of four regions.

    Source: Fan et al., "Structure-measure", ICCV 2017, sections 3.1 to 3.3.
    """
    share = mask.mean()
    if share == 0:
        return float(1 - saliency.mean())
    if share == 1:
        return float(saliency.mean())
    similarity = share * _object(saliency[mask]) + (1 - share) * _object(1 - saliency[~mask])
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    y, x = int(rows.mean().round()) + 1, int(columns.mean().round()) + 1  # the centroid's pixel goes to the top left
    weights = x * y / mask.size, y * (width - x) / mask.size, (height - y) * x / mask.size
    regions = (
        (weights[0], np.s_[:y, :x]),
        (weights[1], np.s_[:y, x:]),
        (weights[2], np.s_[y:, :x]),
        (1 - sum(weights), np.s_[y:, x:]),
    )
    structure = sum(weight * _ssim(saliency[part], mask[part]) for weight, part in regions if mask[part].size)
    return float(max(0, alpha * similarity + (1 - alpha) * structure))


def _object(values: Array) -> float:
    """Equation 5: similarity of the values [N] to all ones."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPS))


def _ssim(x: Array, y: Array) -> float:
    """Structural similarity of two regions, without its constants. Source: equations 1 and 2."""
    dx, dy = x - x.mean(), y - y.mean()
    freedom = x.size - 1 + EPS
    numerator = 4 * x.mean() * y.mean() * (dx * dy).sum() / freedom
    denominator = (x.mean() ** 2 + y.mean() ** 2) * ((dx**2).sum() + (dy**2).sum()) / freedom
    if numerator == 0:
        return float(denominator == 0)
    return float(numerator / (denominator + EPS))


def weighted_f(saliency: Array, mask: Array) -> float:
    """F-measure with errors weighted by their distance from the mask and by the errors around them.

    Source: Margolin et al., "How to evaluate foreground maps?", CVPR 2014, section 4, with sigma^2 = 5^2,
    alpha = ln 0.5 / 5 and beta = 1. 0 for an empty mask.
    """
    if not mask.any():
        return 0.0
    distance, (rows, columns) = distance_transform_edt(~mask, return_indices=True)
    error = np.abs(saliency - mask)
    smoothed = correlate(error[rows, columns], _GAUSSIAN, mode="constant")  # outside, the error at the nearest edge
    least = np.where(mask & (smoothed < error), smoothed, error)
    weighted = least * np.where(mask, 1.0, 2 - np.exp(np.log(0.5) / 5 * distance))
    true_positives = mask.sum() - weighted[mask].sum()
    recall = 1 - weighted[mask].mean()
    precision = true_positives / (true_positives + weighted[~mask].sum() + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


_AXIS = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 5**2))
_GAUSSIAN = np.outer(_AXIS, _AXIS) / _AXIS.sum() ** 2


class SaliencyMetrics(Metric):
    """Means over the images of a data set, and over processes."""

    names: Mapping[str, str] = {
        "max_f": "max F-measure",
        "mae": "MAE",
        "mean_f": "mean F-measure",
        "weighted_f": "weighted F-measure",
        "s_measure": "S-measure",
        "mean_e": "mean E-measure",
        "max_e": "max E-measure",
        "iou": "IoU at 0.5",
    }
    sums: Tensor
    f_curves: Tensor
    e_curves: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        double = torch.float64
        self.add_state("sums", torch.zeros(4, dtype=double), dist_reduce_fx="sum")
        self.add_state("f_curves", torch.zeros(THRESHOLDS, dtype=double), dist_reduce_fx="sum")
        self.add_state("e_curves", torch.zeros(THRESHOLDS, dtype=double), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):
            saliency, mask = _arrays(prediction, target)
            full = stretched(saliency)
            values = [function(full, mask) for function in (mean_absolute_error, weighted_f, s_measure)]
            self.sums += torch.tensor([*values, _iou(saliency, mask)], dtype=torch.float64)
            self.f_curves += torch.from_numpy(f_curve(full, mask))
            self.e_curves += torch.from_numpy(e_curve(full, mask))
            self.count += 1

    def compute(self) -> dict[str, Any]:
        """All in 0..1. `max_f` and `max_e` are the maxima of the mean curves, `mean_f` and `mean_e` their means, with
        beta^2 = 0.3; `f_curve` and `e_curve` are the curves, thresholds 1 to 0."""
        count = max(1, int(self.count))
        mae, weighted, structure, iou = (self.sums / count).tolist()
        f, e = self.f_curves / count, self.e_curves / count
        return {
            "max_f": float(f.max()),
            "mae": mae,
            "mean_f": float(f.mean()),
            "weighted_f": weighted,
            "s_measure": structure,
            "mean_e": float(e.mean()),
            "max_e": float(e.max()),
            "iou": iou,
            "f_curve": f.tolist(),
            "e_curve": e.tolist(),
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """MAE, S-measure and IoU at 0.5 of one image; the MAE is its `error`."""
        saliency, mask = _arrays(prediction, target)
        full = stretched(saliency)
        error = mean_absolute_error(full, mask)
        return {
            "mae": error,
            "s_measure": s_measure(full, mask),
            "iou": _iou(saliency, mask),
            "error": error,
        }


def _arrays(prediction: Prediction, target: Target) -> tuple[Array, Array]:
    """S [H, W] and G [H, W] bool; ignored pixels are background that was predicted as such."""
    assert prediction.saliency is not None
    assert target.semantic is not None
    labels, saliency = target.semantic.cpu().numpy(), prediction.saliency.cpu().numpy()
    return np.where(labels == IGNORED, 0, saliency), (labels != IGNORED) & (labels > 0)


def _iou(saliency: Array, mask: Array) -> float:
    """Intersection over union of the mask and the map at 0.5; 1 if both are empty."""
    salient = saliency >= 0.5
    union = (salient | mask).sum()
    return float((salient & mask).sum() / union) if union else 1.0
