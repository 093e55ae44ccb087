"""Metrics of label maps, worked by hand."""

import pytest
import torch

from vertebra.metrics.semantic import SegmentationMetrics, boundary_counts
from vertebra.structures import Prediction, Target

LABELS = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=torch.uint8)
PREDICTED = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]], dtype=torch.uint8)


def metrics_of(*pairs, num_classes=3):
    metrics = SegmentationMetrics(num_classes)
    for predicted, labels in pairs:
        metrics.update([Prediction(semantic=predicted)], [Target(semantic=labels)])
    return metrics.compute()


def test_values_by_hand():
    values = metrics_of((PREDICTED, LABELS))
    assert values["confusion"] == [[3, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert values["per_class"]["iou"] == [pytest.approx(3 / 4), pytest.approx(3 / 4), None]
    assert values["per_class"]["dice"] == [pytest.approx(6 / 7), pytest.approx(6 / 7), None]
    assert values["per_class"]["accuracy"] == [0.75, 1, None]
    assert values["per_class"]["share"] == pytest.approx([4 / 7, 3 / 7, 0])
    assert values["miou"] == pytest.approx(3 / 4)
    assert values["pixel_accuracy"] == pytest.approx(6 / 7)
    assert values["mean_accuracy"] == pytest.approx(7 / 8)


def test_pixels_of_all_images_are_counted_together():
    other = torch.zeros(1, 5, dtype=torch.uint8)
    assert metrics_of((PREDICTED, LABELS), (other, other))["confusion"][0] == [8, 1, 0]


def test_an_image_without_a_class_has_no_error():
    ignored = torch.full((2, 2), 255, dtype=torch.uint8)
    row = SegmentationMetrics(3).row(
        Prediction(semantic=torch.zeros(2, 2, dtype=torch.uint8)), Target(semantic=ignored)
    )
    assert row == {"pixel_accuracy": 1, "miou": 0, "error": 0}


def test_the_boundary_is_the_band_around_every_class():
    labels = torch.zeros(30, 40, dtype=torch.uint8)  # its diagonal is 50 pixels, the band 1 wide
    labels[:, 20:] = 1
    both, union = boundary_counts(labels.numpy(), labels.numpy(), 2).tolist()
    assert both == union == [2 * (20 + 30) - 4] * 2  # the rim of each half
    shifted = torch.zeros_like(labels)
    shifted[:, 21:] = 1
    both, union = boundary_counts(shifted.numpy(), labels.numpy(), 2).tolist()
    assert both == [96 - 28, 96 - 28 - 2]  # the column at the border moves, and a corner of two pixels with it
    assert union[0] == 96 + 98 - both[0]


def test_ignored_pixels_have_no_boundary():
    labels = torch.zeros(30, 40, dtype=torch.uint8)
    labels[:, 20:] = 255
    both, union = boundary_counts(torch.zeros(30, 40, dtype=torch.uint8).numpy(), labels.numpy(), 1).tolist()
    assert both == union
