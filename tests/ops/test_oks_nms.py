"""Object keypoint similarity and the suppression of objects by it, worked by hand."""

import math

import pytest
import torch

from vertebra.ops.keypoints import oks_matrix, oks_nms

SIGMAS = torch.tensor([0.5, 0.25])
"""Their squares, times 2 and squared, are 1 and 0.25: a keypoint `d` pixels away in an area `a` counts exp(-d**2 / 2a),
the second exp(-2 d**2 / a)."""


def object_at(x, y=0.0):
    return [[x, y], [x + 5.0, y]]


def test_similarity_of_two_objects():
    points = torch.tensor([object_at(0), object_at(3, 4)])
    matrix = oks_matrix(points, torch.tensor([100.0, 300.0]), SIGMAS)
    expected = (math.exp(-25 / 400) + math.exp(-2 * 25 / 200)) / 2  # by the mean of the areas, 200
    assert matrix.tolist() == [pytest.approx([1, expected]), pytest.approx([expected, 1])]


def test_scores_of_keypoints_do_not_count():
    points = torch.tensor([object_at(0), object_at(1)])
    scored = torch.cat((points, torch.tensor([[[0.1], [0.9]], [[0.0], [0.4]]])), 2)
    areas = torch.tensor([10.0, 10.0])
    assert torch.equal(oks_matrix(points, areas, SIGMAS), oks_matrix(scored, areas, SIGMAS))


def test_objects_without_an_area():
    points = torch.tensor([object_at(0), object_at(0), object_at(9)])
    matrix = oks_matrix(points, torch.zeros(3), SIGMAS)
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def one_keypoint(*positions):
    return torch.tensor([[[float(x), 0.0]] for x in positions])


def test_suppression():
    """With an area of 2 and a deviation of 1/2, objects `d` pixels apart have the OKS exp(-d**2 / 4): 0.78 for one
    pixel, 0.37 for two. The third lies close to the second alone, which the first has removed."""
    points, areas, sigmas = one_keypoint(0, 1, 2, 50), torch.full((4,), 2.0), torch.tensor([0.5])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert oks_nms(points, scores, areas, sigmas, 0.5).tolist() == [3, 0, 2]
    assert oks_nms(points, scores, areas, sigmas, 0.3).tolist() == [3, 0]
    assert oks_nms(points, scores, areas, sigmas, 0.8).tolist() == [3, 0, 1, 2]


def test_order_is_by_score():
    points, areas, sigmas = one_keypoint(0, 1, 2), torch.full((3,), 2.0), torch.tensor([0.5])
    assert oks_nms(points, torch.tensor([0.5, 0.6, 0.5]), areas, sigmas, 0.5).tolist() == [1]
    assert oks_nms(points, torch.tensor([0.5, 0.4, 0.6]), areas, sigmas, 0.5).tolist() == [2, 0]


def test_equal_objects_and_scores_keep_the_first():
    points, areas = one_keypoint(3, 3, 3), torch.ones(3)
    assert oks_nms(points, torch.full((3,), 0.5), areas, torch.tensor([0.5]), 0.9).tolist() == [0]
    kept = oks_nms(points, torch.full((3,), 0.5), areas, torch.tensor([0.5]), 1.0)
    assert kept.tolist() == [0, 1, 2]  # no OKS is above 1


def test_no_objects():
    kept = oks_nms(torch.zeros(0, 2, 3), torch.zeros(0), torch.zeros(0), SIGMAS, 0.9)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64
