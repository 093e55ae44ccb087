"""One-to-one matching of predictions to objects, worked by hand."""

import math
import time

import pytest
import torch

from vertebra.ops import reduce
from vertebra.ops.set_matching import match_one_to_one, set_cost


def pairs(cost):
    return [x.tolist() for x in match_one_to_one(torch.tensor(cost))]


def test_the_least_total_cost_wins():
    """1 + 4 + 9 = 14 along the diagonal, which takes the least cost first; 3 + 4 + 3 = 10 across."""
    assert pairs([[1.0, 2, 3], [2, 4, 6], [3, 6, 9]]) == [[0, 1, 2], [2, 1, 0]]


def test_more_of_one_side():
    assert pairs([[5.0], [1], [3]]) == [[1], [0]]
    assert pairs([[5.0, 1, 3]]) == [[0], [1]]
    assert pairs([[], []]) == [[], []]


def test_costs_that_are_not_finite_are_avoided():
    assert pairs([[math.nan, 1.0], [2.0, 0.0]]) == [[0, 1], [1, 0]]
    assert pairs([[math.inf, 1.0], [-math.inf, 0.0]]) == [[0, 1], [1, 0]]


def test_the_cost_of_a_pair():
    """Probability 0.5: focal 0.25 * 0.25 * log 2 - 0.75 * 0.25 * log 2. The second object is 20 pixels to the right and
    touches the prediction: L1 2 * 20 / 100, GIoU 0."""
    boxes, gt_boxes = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[0.0, 0, 20, 20], [20, 0, 40, 20]])
    scale = torch.tensor([100.0, 50, 100, 50])
    cost = set_cost(torch.zeros(1, 3), boxes, torch.tensor([2, 0]), gt_boxes, scale)
    focal = -0.125 * math.log(2)
    assert cost[0].tolist() == pytest.approx([2 * focal - 2, 2 * focal + 5 * 0.4])


def test_the_class_of_an_object_decides_its_focal_cost():
    boxes = torch.tensor([[0.0, 0, 20, 20]])
    cost = set_cost(torch.tensor([[3.0, -3.0]]), boxes, torch.tensor([0, 1]), boxes.expand(2, 4), torch.ones(4))
    assert cost[0, 0] < cost[0, 1]


def test_time_grows_with_the_objects_at_most_quadratically():
    torch.manual_seed(0)
    seconds = []
    for count in (250, 1000):
        corners = torch.rand(count + 300, 2) * 500
        boxes = torch.cat((corners, corners + 50), 1)
        labels = torch.zeros(count, dtype=torch.int64)
        start = time.process_time()
        match_one_to_one(set_cost(torch.randn(300, 80), boxes[:300], labels, boxes[300:], torch.full((4,), 500.0)))
        seconds.append(time.process_time() - start)
    assert seconds[1] < 3 * 16 * seconds[0]


def test_the_mean_over_processes(monkeypatch):
    assert reduce.mean_over_processes(torch.tensor(5.0)) == 5
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(3))  # the other process has 3
    value = torch.tensor(5.0)
    assert reduce.mean_over_processes(value) == 4
    assert value == 5
