"""Boundary F, worked by hand."""

import pytest
import torch

from vertebra.metrics.boundary import boundary_f, boundary_pixels
from vertebra.structures import Masks


def masks(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (8, 10)) -> Masks:
    """Rectangles x1, y1, x2, y2."""
    result = Masks(size)
    for x1, y1, x2, y2 in boxes:
        result.append(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))
    return result


def pixels(box: tuple[int, int, int, int], size: tuple[int, int] = (8, 10)) -> set[tuple[int, ...]]:
    chosen = masks(box, size=size)
    return {tuple(point) for point in boundary_pixels(chosen.crops[0], chosen.corners[0], size).tolist()}


def test_the_boundary_of_a_square_is_its_rim():
    assert pixels((1, 1, 4, 4)) == {(x, y) for x in (1, 2, 3) for y in (1, 2, 3)} - {(2, 2)}


def test_the_border_of_the_image_is_no_boundary():
    assert pixels((0, 0, 10, 8)) == set()
    assert pixels((0, 0, 4, 8)) == {(3, y) for y in range(8)}
    assert pixels((0, 5, 10, 8)) == {(x, 5) for x in range(10)}
    assert pixels((7, 0, 10, 8)) == {(7, y) for y in range(8)}
    assert pixels((0, 0, 10, 3)) == {(x, 2) for x in range(10)}


def test_a_hole_has_a_boundary():
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2, 2] = False
    assert len(boundary_pixels(mask, (0, 0), (5, 5))) == 4


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1, 1, 4, 4), 1.0),
        ((2, 1, 5, 4), 1.0),  # one pixel to the right, within the tolerance
        # Two pixels to the right: of the eight pixels, three coincide and two have one of the other's beside them.
        ((3, 1, 6, 4), 5 / 8),
        ((6, 1, 9, 4), 0.0),
        # A square of four pixels inside: it has four, all near; of the eight, that of the far corner is sqrt(2) away.
        ((1, 1, 3, 3), 2 * (7 / 8) / (1 + 7 / 8)),
    ],
)
def test_by_hand(box, expected):
    square, other = masks((1, 1, 4, 4)), masks((0, 0, 1, 1), box)
    assert boundary_f(square, 0, other, 1) == pytest.approx(expected)
    assert boundary_f(other, 1, square, 0) == pytest.approx(expected)


def test_masks_without_a_boundary():
    some, empty, full = masks((1, 1, 4, 4)), masks((0, 0, 0, 0)), masks((0, 0, 10, 8))
    assert boundary_f(empty, 0, empty, 0) == boundary_f(full, 0, full, 0) == boundary_f(empty, 0, full, 0) == 1
    assert boundary_f(some, 0, empty, 0) == boundary_f(full, 0, some, 0) == 0
