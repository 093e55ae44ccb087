"""Metrics of several classes per image, by hand."""

import pytest
import torch

from vertebra.metrics.multilabel import MultilabelMetrics
from vertebra.structures import Prediction, Target

PROBABILITIES = [[0.9, 0.2, 0.6], [0.8, 0.7, 0.1], [0.3, 0.1, 0.2], [0.7, 0.4, 0.3]]
TAGS = [[0], [0, 1], [], [1]]


def pairs():
    """Of four images; no image has the third class."""
    predictions = [Prediction().with_tags(torch.tensor(row)) for row in PROBABILITIES]
    return predictions, [Target(tags=torch.tensor(tags, dtype=torch.int64)) for tags in TAGS]


def computed(metrics, *, batches=1):
    predictions, targets = pairs()
    size = len(predictions) // batches
    for start in range(0, len(predictions), size):
        metrics.update(predictions[start : start + size], targets[start : start + size])
    return metrics.compute()


def test_by_hand():
    values = computed(MultilabelMetrics(3))
    assert values["map"] == values["per_class"]["ap"][0] == values["per_class"]["ap"][1] == 1
    assert values["per_class"]["ap"][2] is None  # which does not occur
    # Precision at the four hits of all pairs by score; two pairs have 0.7, one of which is a hit.
    assert values["micro_ap"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 6) / 4)
    assert values["thresholds"] == pytest.approx([0.75, 0.3, 0.5])  # half-way to the next lower probability
    assert values["per_class"]["support"] == [2, 2, 0]
    assert values["per_class"]["threshold"] == values["thresholds"]
    assert (values["f1"], values["per_class"]["recall"]) == (1, [1, 1, None])
    assert values["per_class"]["precision"] == [1, 1, 0]  # the third is predicted once
    assert values["micro_f1"] == pytest.approx(2 * 4 / (5 + 4))
    assert values["exact"] == 0.75


def test_thresholds_that_are_given_are_used():
    values = computed(MultilabelMetrics(3, thresholds=[0.85, 0.5, 0.95]))
    assert values["thresholds"] == [0.85, 0.5, 0.95]
    assert values["per_class"]["recall"] == [0.5, 0.5, None]
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["map"] == 1


def test_batches_change_nothing():
    assert computed(MultilabelMetrics(3), batches=4) == computed(MultilabelMetrics(3))


def test_data_without_a_tag_has_no_average_precision():
    metrics = MultilabelMetrics(2)
    assert metrics.compute() == {}
    metrics.update([Prediction().with_tags(torch.tensor([0.2, 0.6]))], [Target(tags=torch.zeros(0).long())])
    values = metrics.compute()
    assert not {"map", "micro_ap"} & values.keys()
    assert (values["f1"], values["thresholds"], values["exact"]) == (0, [0.5, 0.5], 0)


def test_one_class():
    metrics = MultilabelMetrics(1)
    for probability, tags in ((0.8, [0]), (0.6, []), (0.4, [0])):
        target = Target(tags=torch.tensor(tags, dtype=torch.int64))
        metrics.update([Prediction().with_tags(torch.tensor([probability]))], [target])
    assert metrics.compute()["map"] == metrics.compute()["micro_ap"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_threshold_that_separates_nothing_is_not_used():
    """A best F1 below 0.1: one image of 40 has the class, with the lowest probability."""
    metrics = MultilabelMetrics(1)
    predictions = [Prediction().with_tags(torch.tensor([0.9 - i / 100])) for i in range(40)]
    metrics.update(
        predictions, [Target(tags=torch.tensor([0] if i == 39 else [], dtype=torch.int64)) for i in range(40)]
    )
    assert metrics.compute()["thresholds"] == [0.5]


def test_the_row_of_an_image():
    metrics = MultilabelMetrics(3, thresholds=[0.5, 0.9, 0.5])
    predictions, targets = pairs()
    rows = [metrics.row(*pair) for pair in zip(predictions, targets, strict=True)]
    assert [row["prediction"] for row in rows] == [[0, 2], [0], [], [0]]
    assert [row["target"] for row in rows] == TAGS
    assert [row["error"] for row in rows] == pytest.approx([1 / 3, 1 / 3, 0, 1])
