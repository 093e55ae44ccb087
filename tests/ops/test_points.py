"""Sets of points, with numbers worked by hand."""

import math

import pytest
import torch

from vertebra.ops.points import assign_points, nearest_points, point_grid, points_to_boxes

# y, x of five points; both coordinates have a variance of 21.2, and means of 2.8 and 0.8.
POINTS = torch.tensor([[0.0, 1, 2, 3, 4, 5, -2, 2, 10, -7]])


@pytest.mark.parametrize(
    ("conversion", "box"),
    [
        ("minmax", [-7, -2, 5, 10]),
        ("partial_minmax", [1, -2, 5, 4]),
        ("corners", [1, 0, 3, 2]),
        ("moment", [0.8 - 2 * 21.2**0.5, 2.8 - 21.2**0.5, 0.8 + 2 * 21.2**0.5, 2.8 + 21.2**0.5]),
    ],
)
def test_conversions(conversion, box):
    moment = torch.tensor([math.log(2), 0.0])
    assert points_to_boxes(POINTS, conversion, moment)[0].tolist() == pytest.approx(box)
    maps = points_to_boxes(POINTS[..., None, None].expand(2, 10, 3, 4), conversion, moment)
    assert maps.shape == (2, 4, 3, 4)
    assert maps[1, :, 2, 3].tolist() == pytest.approx(box)


def test_points_lie_at_the_corners_of_cells():
    assert point_grid((2, 3), 8).tolist() == [[[0, 8, 16], [0, 8, 16]], [[0, 0, 0], [8, 8, 8]]]
    positions = torch.tensor([[3.0, 5.0], [4.0, 12.1], [-9.0, 99.0]])
    assert nearest_points(positions, torch.tensor([3, 2]), 8).tolist() == [[0, 1], [0, 1], [0, 1]]


def test_every_box_has_one_point_on_the_level_of_its_size():
    boxes = torch.tensor(
        [
            [2.0, 2, 34, 34],  # the centre is two pixels from the point of the third box
            [0.0, 0, 64, 64],  # the second level, at its last point
            [0.0, 0, 32, 32],  # 4 cells of stride 8: the first level; centre at column 2, row 2
            [4.0, 4, 5, 5],  # too small for any level: the first
            [0.0, 0, 900, 900],  # too large: the second, and further from the point than the second box
        ]
    )
    points, index = assign_points(boxes, [(4, 4), (2, 2)], [8, 16])
    assert points.tolist() == [5, 10, 16 + 3]
    assert index.tolist() == [3, 2, 1]
    points, index = assign_points(boxes[:0], [(4, 4), (2, 2)], [8, 16])
    assert points.tolist() == index.tolist() == []


def test_of_boxes_at_the_same_distance_the_first_has_the_point():
    boxes = torch.tensor([[0.0, 0, 32, 32], [0.0, 0, 32, 32]])
    assert [x.tolist() for x in assign_points(boxes, [(4, 4)], [8])] == [[10], [0]]
