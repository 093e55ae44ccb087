"""Numbers worked by hand."""

import math

import pytest
import torch

from vertebra.metrics.classification import ClassificationMetrics
from vertebra.structures import Prediction, Target


def computed(probabilities: list[list[float]], labels: list[int], *, batch: int = 100) -> dict:
    metrics = ClassificationMetrics(len(probabilities[0]))
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        metrics.update(
            [Prediction(probabilities=torch.tensor(p)) for p in probabilities[part]],
            [Target(label=torch.tensor(label)) for label in labels[part]],
        )
    return metrics.compute()


#      probabilities       target
FIVE = [
    ([0.8, 0.1, 0.1], 0),  # right
    ([0.6, 0.3, 0.1], 1),  # 1 taken for 0
    ([0.2, 0.7, 0.1], 1),  # right
    ([0.3, 0.6, 0.1], 0),  # 0 taken for 1
    ([0.5, 0.4, 0.1], 0),  # right
]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_by_hand(batch):
    values = computed([p for p, _ in FIVE], [t for _, t in FIVE], batch=batch)
    assert values["top1"] == pytest.approx(3 / 5)
    assert values["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]  # a row per target class
    per_class = values["per_class"]
    assert per_class["support"] == [3, 2, 0]
    assert per_class["recall"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert per_class["precision"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert per_class["f1"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # over the classes that occur
    assert values["f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["loss"] == pytest.approx(-sum(math.log(p[t]) for p, t in FIVE) / 5)


def test_rows_of_the_confusion_are_the_targets():
    values = computed([[0.1, 0.9, 0.0]] * 3, [0, 0, 2])
    assert values["confusion"] == [[0, 2, 0], [0, 0, 0], [0, 1, 0]]
    assert values["per_class"]["precision"] == [0, 0, 0]
    assert values["per_class"]["support"] == [2, 0, 1]


def test_precision_and_recall_are_not_each_other():
    values = computed([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], [0, 1, 1, 1])
    assert values["per_class"]["precision"] == pytest.approx([1 / 3, 1])
    assert values["per_class"]["recall"] == pytest.approx([1, 1 / 3])
    assert values["per_class"]["f1"] == pytest.approx([1 / 2, 1 / 2])


def test_top5():
    """Seven classes, the probabilities fall with the number: targets 0 to 4 are among the top five."""
    falling = [0.3, 0.2, 0.15, 0.13, 0.1, 0.07, 0.05]
    values = computed([falling] * 7, list(range(7)))
    assert values["top1"] == pytest.approx(1 / 7)
    assert values["top5"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_top5_of_few_classes_is_always_right(classes):
    values = computed([[1 / classes] * classes] * classes, list(range(classes)))
    assert values["top5"] == 1


def test_calibration_error():
    """Two bins are filled: confidence 0.9, half of it right; confidence 0.6, all of it right."""
    values = computed([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], [0, 1, 0, 0])
    assert values["calibration_error"] == pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.6 - 1.0))


def test_a_perfect_model():
    values = computed(torch.eye(3).tolist(), [0, 1, 2])
    assert values["top1"] == values["balanced_accuracy"] == values["f1"] == 1
    assert values["loss"] == values["calibration_error"] == 0


def test_a_certain_mistake_has_a_finite_loss():
    assert math.isfinite(computed([[1.0, 0.0]], [1])["loss"])


def test_reset():
    metrics = ClassificationMetrics(2)
    for predicted in (0, 1):
        metrics.update([Prediction(probabilities=torch.eye(2)[predicted])], [Target(label=torch.tensor(1))])
        assert metrics.compute()["top1"] == predicted
        metrics.reset()


def test_everything_is_plain():
    """What is computed goes into JSON."""
    import json

    json.dumps(computed([p for p, _ in FIVE], [t for _, t in FIVE]))


def test_row():
    """The error is 1 - the target's probability; 0 for a correct prediction, however unsure."""
    metrics = ClassificationMetrics(3)
    wrong = metrics.row(Prediction(probabilities=torch.tensor([0.5, 0.125, 0.375])), Target(label=torch.tensor(2)))
    assert wrong == {"target": 2, "prediction": 0, "probability": 0.5, "target_probability": 0.375, "error": 0.625}
    right = metrics.row(Prediction(probabilities=torch.tensor([0.25, 0.5, 0.25])), Target(label=torch.tensor(1)))
    assert right["error"] == 0
