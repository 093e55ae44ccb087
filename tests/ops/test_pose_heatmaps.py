"""Gaussians as targets, and maxima of heatmaps, worked by hand."""

import math

import pytest
import torch

from vertebra.ops.heatmaps import dark_refined, gaussians, maxima, quarter_refined

MSRA = {"rounded": True, "cut": True}
UNBIASED = {"rounded": False, "cut": False}
UDP = {"rounded": False, "cut": True}


def keypoints(*rows):
    return torch.tensor([rows], dtype=torch.float32)


def bell(centre, side):
    return [math.exp(-((i - centre) ** 2) / 2) for i in range(side)]


@pytest.mark.parametrize(
    ("options", "columns", "rows"),
    [
        (MSRA, [*bell(0, 6)[:4], 0, 0], bell(2, 5)),  # on cell (0, 2), and 0 further than three cells from it
        (UNBIASED, bell(0.4, 6), bell(1.6, 5)),
        (UDP, [*bell(0.4, 6)[:4], 0, 0], bell(1.6, 5)),
    ],
    ids=["rounded", "unbiased", "udp"],
)
def test_gaussian_at_the_border(options, columns, rows):
    heatmaps, valid = gaussians(keypoints([0.4, 1.6, 2]), (5, 6), 1.0, **options)
    assert heatmaps.dtype == torch.float32
    assert valid.tolist() == [[True]]
    expected = torch.tensor(rows)[:, None] * torch.tensor(columns)
    torch.testing.assert_close(heatmaps[0, 0], expected, rtol=1e-5, atol=1e-7)


def test_the_highest_cell_is_one_where_the_gaussian_is_rounded():
    heatmaps, _ = gaussians(keypoints([2.5, 1.49, 1]), (4, 5), 2.0)
    assert heatmaps[0, 0, 1, 3] == 1  # half a cell goes up
    assert heatmaps.max() == 1


def test_keypoints_that_are_not_labelled_have_no_target():
    heatmaps, valid = gaussians(keypoints([1, 1, 0], [1, 1, 1], [1, 1, 2]), (4, 5), 1.0)
    assert valid.tolist() == [[False, True, True]]
    assert not heatmaps[0, 0].any()
    assert torch.equal(heatmaps[0, 1], heatmaps[0, 2])


@pytest.mark.parametrize("options", [MSRA, UNBIASED, UDP], ids=["rounded", "unbiased", "udp"])
def test_keypoints_far_outside_have_no_target(options):
    """With a deviation of 1, a Gaussian reaches three cells: of a map of 10 x 8 cells it sees those up to 12 and 10. On
    the other side the authors' code stops one or two cells later, with a target of zeros."""
    outside = [[-6, 4, 2], [5, -6, 2], [13, 4, 2], [5, 11, 2]]
    inside = [[-4, 4, 2], [5, -4, 2], [12, 4, 2], [5, 10, 2]]
    heatmaps, valid = gaussians(keypoints(*outside, *inside), (8, 10), 1.0, **options)
    assert valid.tolist() == [[False] * 4 + [True] * 4]
    assert not heatmaps[0, :4].any()
    assert heatmaps[0, 6, 4, 9] == pytest.approx(math.exp(-9 / 2))


def test_maxima():
    heatmaps = torch.zeros(2, 2, 3, 4)
    heatmaps[0, 0, 2, 1], heatmaps[0, 0, 0, 3] = 0.5, 0.25
    heatmaps[0, 1] = -1
    heatmaps[0, 1, 2, 3] = -0.5  # no cell is above 0
    heatmaps[1, 0, 1, 1] = heatmaps[1, 0, 2, 2] = 0.75  # the first
    heatmaps[1, 1, 0, 3] = 1
    cells, values = maxima(heatmaps)
    assert cells.tolist() == [[[1, 2], [0, 0]], [[1, 1], [3, 0]]]
    assert values.tolist() == [[0.5, -0.5], [0.75, 1]]
    assert cells.dtype == torch.float32


def heatmap(values, side=6):
    """[1, 1, side, side] with these values at (x, y)."""
    result = torch.zeros(1, 1, side, side)
    for (x, y), value in values.items():
        result[0, 0, y, x] = value
    return result


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        ({(2, 3): 1, (3, 3): 0.5, (2, 2): 0.4}, (2.25, 2.75)),
        ({(2, 3): 1, (1, 3): 0.5, (3, 3): 0.2, (2, 4): 0.1}, (1.75, 3.25)),
        ({(2, 3): 1, (1, 3): 0.5, (3, 3): 0.5}, (2, 3)),  # neighbours of one height
        ({(1, 3): 1, (2, 3): 0.5, (1, 2): 0.5}, (1, 3)),  # next to the border, it stays
        ({(3, 1): 1, (4, 1): 0.5}, (3, 1)),
        ({(5, 3): 1, (4, 3): 0.5}, (5, 3)),
        ({(4, 4): 1, (5, 4): 0.5}, (4.25, 4)),
    ],
)
def test_a_quarter_of_a_cell(values, cell):
    heatmaps = heatmap(values)
    refined = quarter_refined(heatmaps, maxima(heatmaps)[0])
    assert refined.shape == (1, 1, 2)
    assert refined[0, 0].tolist() == pytest.approx(cell)


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize(("sigma", "kernel"), [(2.0, 11), (3.0, 17)])
def test_dark_finds_the_centre_of_a_gaussian(sigma, kernel, udp):
    generator = torch.Generator().manual_seed(0)
    margin = 4 * sigma + kernel // 2
    points = margin + torch.rand(8, 5, 2, generator=generator) * (torch.tensor([64.0, 72.0]) - 2 * margin)
    heatmaps, _ = gaussians(torch.cat((points, torch.ones(8, 5, 1)), 2), (72, 64), sigma, **UNBIASED)
    cells, _ = maxima(heatmaps)
    assert float((cells - points).abs().max()) > 0.45
    refined = dark_refined(0.7 * heatmaps, cells, kernel, udp=udp)
    assert float((refined - points).abs().max()) < 1e-2


@pytest.mark.parametrize("udp", [False, True])
def test_dark_finds_the_centre_of_a_slanted_gaussian(udp):
    rows, columns = torch.meshgrid(torch.arange(48.0) - 21.4, torch.arange(40.0) - 20.3, indexing="ij")
    heatmaps = torch.exp(-(rows**2 + columns**2 + 1.2 * rows * columns) / 16)[None, None]
    refined = dark_refined(heatmaps, maxima(heatmaps)[0], 11, udp=udp)
    assert refined[0, 0].tolist() == pytest.approx([20.3, 21.4], abs=1e-2)


def test_dark_is_better_than_a_quarter():
    heatmaps, _ = gaussians(keypoints([20.13, 21.4, 1]), (48, 40), 2.0, **UNBIASED)
    cells, _ = maxima(heatmaps)
    assert quarter_refined(heatmaps, cells)[0, 0].tolist() == [20.25, 21.25]
    assert dark_refined(heatmaps, cells, 11)[0, 0].tolist() == pytest.approx([20.13, 21.4], abs=1e-2)


@pytest.mark.parametrize(("x", "y"), [(0.3, 20.2), (1.3, 20.2), (38.4, 20.2), (20.2, 0.3), (20.2, 47.2), (20.2, 46.8)])
def test_dark_at_the_border(x, y):
    """Second derivatives reach two cells, so that maxima next to the border stay; with UDP it is repeated instead."""
    heatmaps, _ = gaussians(keypoints([x, y, 1]), (48, 40), 2.0, **UNBIASED)
    cells, _ = maxima(heatmaps)
    assert torch.equal(dark_refined(heatmaps, cells, 11), cells)
    refined = dark_refined(heatmaps, cells, 11, udp=True)
    assert bool(refined.isfinite().all())
    assert not torch.equal(refined, cells)
    axis = 1 if x == 20.2 else 0
    assert refined[0, 0, 1 - axis] == pytest.approx(20.2, abs=1e-2)  # along the border nothing is lost


def test_dark_of_two_cells_from_the_border_moves():
    heatmaps, _ = gaussians(keypoints([2.3, 44.7, 1]), (48, 40), 2.0, **UNBIASED)
    cells, _ = maxima(heatmaps)
    assert cells[0, 0].tolist() == [2, 45]
    refined = dark_refined(heatmaps, cells, 11)[0, 0].tolist()
    assert refined == pytest.approx([2.3, 44.7], abs=0.2)  # what is smoothed reaches beyond the border
    assert refined[0] > 2.1
    assert refined[1] < 44.9


@pytest.mark.parametrize("udp", [False, True])
def test_dark_of_a_map_without_a_maximum_is_finite(udp):
    for value in (0.0, -1.0, 0.5):
        heatmaps = torch.full((1, 1, 16, 12), value)
        cells, _ = maxima(heatmaps)
        assert bool(dark_refined(heatmaps, cells, 11, udp=udp).isfinite().all())


def test_refinement_of_every_map_by_itself():
    generator = torch.Generator().manual_seed(1)
    points = torch.cat((15 + torch.rand(3, 4, 2, generator=generator) * 10, torch.ones(3, 4, 1)), 2)
    heatmaps, _ = gaussians(points, (48, 40), 2.0, **UNBIASED)
    cells, _ = maxima(heatmaps)
    for function in (
        quarter_refined,
        lambda h, c: dark_refined(h, c, 11),
        lambda h, c: dark_refined(h, c, 11, udp=True),
    ):
        together = function(heatmaps, cells)
        for b in range(3):
            for k in range(4):
                alone = function(heatmaps[b : b + 1, k : k + 1], cells[b : b + 1, k : k + 1])
                torch.testing.assert_close(alone[0, 0], together[b, k], rtol=0, atol=1e-4)
