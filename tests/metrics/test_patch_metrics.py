"""IoU and boundary IoU of patches, worked out by hand."""

import pytest
import torch

from vertebra.metrics.patches import PatchMetrics
from vertebra.structures import Masks, Prediction, Target


def half(columns, side=8):
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[:, :columns] = 1
    return mask


def pair(predicted, labels, coarse):
    return Prediction(semantic=predicted), Target(semantic=labels, masks=Masks.from_dense(coarse.bool()[None]))


def test_by_hand():
    """Foreground on the left: 4 columns, of which the coarse mask has 2 and the prediction 5. The band is one pixel
    wide on each side, and the border of the patch is no boundary."""
    metrics = PatchMetrics()
    prediction, target = pair(half(5), half(4), half(2))
    metrics.update([prediction], [target])
    expected = {"iou": 4 / 5, "boundary_iou": 0.0, "coarse_iou": 2 / 4, "coarse_boundary_iou": 0.0}
    assert metrics.compute() == pytest.approx(expected)
    row = metrics.row(prediction, target)
    assert row == pytest.approx({**expected, "error": 1 / 5})
    metrics.update(*([item] for item in pair(half(4), half(4), half(4))))
    both = {"iou": 8 / 9, "boundary_iou": 8 / 24, "coarse_iou": 6 / 8, "coarse_boundary_iou": 8 / 24}
    assert metrics.compute() == pytest.approx(both)


def test_context_is_not_measured():
    labels = half(4)
    predicted = labels.clone()
    predicted[:2] = 1 - predicted[:2]
    predicted[:, 6:] = 1
    metrics = PatchMetrics(padding=2)
    metrics.update(*([item] for item in pair(predicted, labels, labels)))
    assert metrics.compute() == dict.fromkeys(PatchMetrics.names, 1.0)


def test_without_foreground_all_is_zero():
    metrics = PatchMetrics()
    metrics.update(*([item] for item in pair(half(0), half(0), half(0))))
    assert metrics.compute() == dict.fromkeys(PatchMetrics.names, 0.0)
