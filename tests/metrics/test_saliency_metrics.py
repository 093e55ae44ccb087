"""Measures of saliency maps against the values of pysodmetrics 1.6.2 for the same 8-bit maps, and their edges."""

import numpy as np
import pytest
import torch

from vertebra.metrics import saliency as measures
from vertebra.metrics.saliency import SaliencyMetrics
from vertebra.structures import Prediction, Target

Y, X = np.mgrid[:24, :32]
MASK = (Y - 10) ** 2 / 36 + (X - 14) ** 2 / 90 < 1
SOFT = np.clip(255 - 12 * np.hypot((Y - 11) * 1.2, X - 16), 0, 255).astype(np.uint8)
WAVES = (127 + 127 * np.sin(X * 1.3 + Y * 0.7)).astype(np.uint8)
FULL, NONE = np.full((24, 32), 255, np.uint8), np.zeros((24, 32), np.uint8)
CASES = {
    # saliency map, mask, then: MAE, weighted F, S, max F, mean F, max E, mean E
    "soft": (SOFT, MASK, 0.34834048, 0.42019072, 0.64570966, 0.85222998, 0.47004554, 0.92450049, 0.47533102),
    "waves": (WAVES, MASK, 0.50028306, 0.32136296, 0.31150428, 0.28077754, 0.25400341, 0.67570041, 0.41461248),
    "dim": (SOFT * 0.6, MASK, 0.34693287, 0.42051161, 0.64689468, 0.85222998, 0.46886069, 0.92450049, 0.47522398),
    "all in none": (FULL, NONE > 0, 1, 0, 0, 0, 0, 0, 0),
    "soft in none": (SOFT, NONE > 0, 0.45009191, 0, 0.54990809, 0, 0, 1, 0.54847417),
    "soft in full": (SOFT, FULL > 0, 0.54990809, 0.70873695, 0.45009191, 1, 0.62506169, 1.00130378, 0.45282961),
    "none in mask": (NONE, MASK, 0.23046875, 0, 0.38476562, 0.28023383, 0.00109466, 0.25032595, 0.25032595),
    "perfect": (MASK * 255, MASK, 0, 1, 1, 1, 0.99718841, 1.00130378, 0.99837027),
}


def prediction(saliency):
    return Prediction(saliency=torch.from_numpy(saliency.astype(np.uint8)).float() / 255)


@pytest.mark.parametrize("name", CASES)
def test_values_of_the_field(name):
    saliency, mask, *expected = CASES[name]
    metrics = SaliencyMetrics()
    metrics.update([prediction(saliency)], [Target(semantic=torch.from_numpy(mask.astype(np.uint8)))])
    values = metrics.compute()
    names = ("mae", "weighted_f", "s_measure", "max_f", "mean_f", "max_e", "mean_e")
    assert [values[key] for key in names] == pytest.approx(expected, abs=1e-7)


def test_means_are_over_images_and_maxima_of_mean_curves():
    metrics = SaliencyMetrics()
    for name in ("soft", "waves"):
        saliency, mask, *_ = CASES[name]
        metrics.update([prediction(saliency)], [Target(semantic=torch.from_numpy(mask.astype(np.uint8)))])
    values = metrics.compute()
    assert values["mae"] == pytest.approx((0.34834048 + 0.50028306) / 2, abs=1e-7)
    assert values["max_f"] < (0.85222998 + 0.28077754) / 2  # the maxima are at different thresholds
    assert values["max_f"] == max(values["f_curve"])


def test_ignored_pixels_are_background_that_was_predicted_as_such():
    labels = torch.from_numpy(MASK.astype(np.uint8))
    labels[:, 20:] = 255
    expected = np.where(np.arange(32) >= 20, 0, SOFT)
    row = SaliencyMetrics().row(prediction(SOFT), Target(semantic=labels))
    clean = SaliencyMetrics().row(prediction(expected), Target(semantic=labels.where(labels != 255, 0)))
    assert row == clean


def test_iou_by_hand():
    labels = torch.tensor([[1, 1, 0, 0]], dtype=torch.uint8)
    row = SaliencyMetrics().row(Prediction(saliency=torch.tensor([[0.9, 0.5, 0.6, 0.1]])), Target(semantic=labels))
    assert row["iou"] == pytest.approx(2 / 3)
    empty = SaliencyMetrics().row(Prediction(saliency=torch.zeros(1, 4)), Target(semantic=labels * 0))
    assert empty["iou"] == 1


def test_a_region_without_pixels_has_no_part_in_the_structure():
    mask = np.zeros((4, 6), bool)
    mask[:, 5] = True  # its centroid leaves nothing to the right
    value = measures.s_measure(mask.astype(float), mask)
    assert value == pytest.approx(1)
