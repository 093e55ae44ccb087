"""Degraded masks: like those of a model, and always of their object."""

import math

import pytest
import torch

from vertebra.data import degrade as module
from vertebra.data.degrade import MIN_IOU, REACH, degrade


def disc(radius):
    axis = torch.arange(2 * radius + 1) - radius
    return axis[:, None] ** 2 + axis**2 <= radius**2


def placed(x, y, mask, size):
    whole = torch.zeros(size, dtype=torch.bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return whole


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


def test_masks_differ_and_stay_near_their_object():
    torch.manual_seed(0)
    size, mask = (120, 140), disc(30)
    whole = placed(50, 30, mask, size)
    values = []
    for _ in range(40):
        x, y, coarse = degrade(50, 30, mask, size)
        assert coarse.any(0).all()  # cropped to its pixels
        assert coarse.any(1).all()
        values.append(iou(placed(x, y, coarse, size), whole))
    assert min(values) > MIN_IOU
    assert 0.8 < sum(values) / len(values) < 0.95
    assert len(set(values)) > 30


def test_a_seed_gives_the_same_mask():
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(degrade(3, 4, disc(20), (80, 80)))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("mask", [torch.ones(1, 1), torch.ones(1, 40), torch.ones(50, 60), torch.eye(9)])
def test_tiny_thin_and_full_masks_stay_inside_the_image(mask):
    """A mask at every border, and one whose pixels touch by their corners."""
    mask = mask.bool()
    torch.manual_seed(1)
    whole = placed(0, 0, mask, (50, 60))
    for _ in range(30):
        x, y, coarse = degrade(0, 0, mask, (50, 60))
        assert coarse.any()
        assert min(x, y) >= 0
        assert y + coarse.shape[0] <= 50
        assert x + coarse.shape[1] <= 60
        assert iou(placed(x, y, coarse, (50, 60)), whole) > MIN_IOU


def test_squares_by_hand():
    square = torch.zeros(9, 9, dtype=torch.bool)
    square[3:6, 3:6] = True
    grown = module._grown(square, 2)
    assert int(grown.sum()) == 49
    assert torch.equal(module._grown(grown, -2), square)
    assert torch.equal(module._grown(square, 0), square)
    assert int(REACH * math.sqrt(10_000)) == 4  # pixels on each side of an object of 100 x 100


def test_an_outline_of_few_corners():
    torch.manual_seed(0)
    mask = torch.nn.functional.pad(disc(20), (3, 3, 3, 3))
    simple = module._simplified(mask, 40.0)
    assert 0.5 < iou(simple, mask) < 0.95
    assert iou(module._simplified(mask, 1.0), mask) > 0.95


def test_a_grid_of_few_cells():
    mask = torch.nn.functional.pad(disc(20), (3, 5, 2, 0))
    assert iou(module._resampled(mask, 41), mask) > 0.99
    assert 0.8 < iou(module._resampled(mask, 6), mask) < 0.98
