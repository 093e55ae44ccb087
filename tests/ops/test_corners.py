"""Corners of boxes, with numbers worked by hand."""

import math

import pytest
import torch

from vertebra.ops.corners import (
    corner_pool,
    corner_targets,
    foreground_weights,
    gaussian_radius,
    heatmap_loss,
    snap_to_corners,
)


def test_corner_pooling_looks_along_the_sides_of_the_box():
    vertical = torch.tensor([[1.0, 2], [3, 0]])[None, None]
    horizontal = torch.tensor([[5.0, 4], [6, 7]])[None, None]
    assert corner_pool(vertical, horizontal, "top_left")[0, 0].tolist() == [[3 + 5, 2 + 4], [3 + 7, 0 + 7]]
    assert corner_pool(vertical, horizontal, "bottom_right")[0, 0].tolist() == [[1 + 5, 2 + 5], [3 + 6, 2 + 7]]


def test_the_radius_keeps_the_iou():
    """The box that is smaller by the radius at every side has the IoU that is asked for."""
    assert gaussian_radius(torch.tensor([[10.0, 10.0]]), 0.7).item() == pytest.approx((10 - 10 * 0.7**0.5) / 2)
    width, height, r = 40.0, 10.0, gaussian_radius(torch.tensor([[40.0, 10.0]]), 0.7).item()
    shifted = (width - r) * (height - r)
    overlaps = (
        (width - 2 * r) * (height - 2 * r) / (width * height),
        width * height / ((width + 2 * r) * (height + 2 * r)),
        shifted / (2 * width * height - shifted),
    )
    assert min(overlaps) == pytest.approx(0.7, abs=1e-5)
    assert gaussian_radius(torch.tensor([[0.0, 0.0]])).tolist() == [0]


CORNER = torch.tensor([[9.0, 17.0]])


def test_targets_of_a_corner():
    heatmap, points, offsets = corner_targets(CORNER, torch.tensor([10.0]), (3, 4), 8)
    spread = 2 * (21 / 6) ** 2
    expected = torch.zeros(3, 4)
    expected[2, 1] = 1  # the nearest point, at 8, 16
    expected[2, 2] = math.exp(-(7**2 + 1) / spread)
    expected[2, 0] = expected[1, 1] = math.exp(-(9**2 + 1) / spread)  # all others are further than 10 pixels
    torch.testing.assert_close(heatmap.view(3, 4), expected)
    assert points.tolist() == [2 * 4 + 1]
    assert offsets.tolist() == [[0.125, 0.125]]


def test_targets_of_many_corners_and_of_none(monkeypatch):
    corners, radii = torch.rand(20, 2) * 30, torch.full((20,), 6.0)
    whole = corner_targets(corners, radii, (4, 4), 8)
    monkeypatch.setattr("vertebra.ops.corners.MAX_PAIRS", 16 * 3)
    for part, expected in zip(corner_targets(corners, radii, (4, 4), 8), whole, strict=True):
        assert torch.equal(part, expected)
    heatmap, points, offsets = corner_targets(corners[:0], radii[:0], (4, 4), 8)
    assert (float(heatmap.sum()), len(points), offsets.shape) == (0, 0, (0, 2))


def test_loss_of_heatmaps():
    loss = heatmap_loss(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]))
    assert float(loss) == pytest.approx(math.log(2) / 4 * (1 + 0.5**4 + 1))


def test_foreground_is_weighted_by_the_smallest_box():
    boxes = torch.tensor([[8.0, 8, 15, 15], [0, 0, 16, 15]])
    weights = foreground_weights(boxes, torch.tensor([0, 0]), (3, 3), 8, 2)
    outer = 1 / 240
    torch.testing.assert_close(weights[0], torch.tensor([[outer, outer, outer], [outer, 1 / 49, outer], [0, 0, 0]]))
    assert not weights[1].any()


def test_positions_snap_to_the_top_scoring_corner_around_them():
    logits, offsets = torch.zeros(1, 3, 3), torch.zeros(1, 2, 3, 3)
    logits[0, 1, 2], logits[0, 0, 0] = 5.0, 9.0
    offsets[0, :, 1, 2] = torch.tensor([0.25, -0.5])
    positions = torch.tensor([[9.0, 1.0], [100.0, 100.0], [1.0, 1.0]]).T[None]  # between columns 1 and 2, rows 0 and 1
    snapped = snap_to_corners(positions, logits, offsets, 8)[0].T
    assert snapped.tolist() == [[18, 4], [18, 4], [0, 0]]
    single = snap_to_corners(positions, logits[:, :1, :1], offsets[:, :, 1:2, 2:3], 8)[0].T
    assert single.tolist() == [[2, -4]] * 3
