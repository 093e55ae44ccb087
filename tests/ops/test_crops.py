"""The affine maps of crops, worked by hand, and what they show of an image."""

import math

import pytest
import torch

from vertebra.ops.crops import SUBPIXELS, crop_matrix, inverse, joined, mirror_matrix, moved, surroundings, warp

SIZE = (256, 192)
IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def at(matrix, x, y):
    return moved(torch.tensor([float(x), float(y)], dtype=torch.float64), matrix).tolist()


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((100, 100, 200, 300), (150, 200, 187.5, 250)),  # narrower than 3 : 4: 150 wide, times 1.25
        ((100, 100, 300, 200), (200, 150, 250, 1000 / 3)),  # wider: 266.7 high
        ((0, 0, 3, 4), (1.5, 2, 3.75, 5)),
        ((7, 9, 7, 9), (7, 9, 0.00125, 0.00125 * 4 / 3)),  # without an area
    ],
)
def test_surroundings(box, part):
    assert surroundings(box, SIZE, 1.25) == pytest.approx(part)


def test_crop_as_hrnet_takes_it():
    """The box 100, 100, 200, 300 has the centre (150, 200) and, in units of 200 pixels and with its margin, the scale
    (0.9375, 1.25): 187.5 x 250 pixels on 192 x 256, 1.024 pixels for each. The centre comes to (96, 128)."""
    matrix = crop_matrix((150, 200, 0.9375 * 200, 1.25 * 200), SIZE)
    assert matrix.dtype == torch.float64
    assert matrix.tolist() == [
        pytest.approx([1.024, 0, 96 - 150 * 1.024]),
        pytest.approx([0, 1.024, 128 - 200 * 1.024]),
    ]
    assert at(matrix, 150, 200) == pytest.approx([96, 128])
    assert at(matrix, 150 - 93.75, 200 - 125) == pytest.approx([0, 0])
    assert at(matrix, 150 + 93.75, 200 + 125) == pytest.approx([192, 256])  # one behind the last pixel


def test_crop_of_unbiased_data_processing():
    """The corners of the part come to the centres of the corner pixels."""
    matrix = crop_matrix((150, 200, 187.5, 250), SIZE, udp=True)
    assert matrix[0, 0] == pytest.approx(191 / 187.5)
    assert matrix[1, 1] == pytest.approx(255 / 250)
    assert at(matrix, 150, 200) == pytest.approx([95.5, 127.5])
    assert at(matrix, 150 - 93.75, 200 - 125) == pytest.approx([0, 0], abs=1e-9)
    assert at(matrix, 150 + 93.75, 200 + 125) == pytest.approx([191, 255])


@pytest.mark.parametrize("udp", [False, True])
def test_rotation_is_clockwise_around_the_centre(udp):
    matrix = crop_matrix((10, 20, 8, 8), (9, 9) if udp else (8, 8), rotation=90, udp=udp)
    assert at(matrix, 10, 20) == pytest.approx([4, 4])
    assert at(matrix, 12, 20) == pytest.approx([4, 6])  # what was on the right is below
    assert at(matrix, 10, 23) == pytest.approx([1, 4])  # and what was below is on the left
    slanted = crop_matrix((10, 20, 8, 8), (9, 9) if udp else (8, 8), rotation=30, udp=udp)
    assert at(slanted, 12, 20) == pytest.approx([4 + 2 * math.sqrt(0.75), 5])


def test_inverse_and_joined():
    first = crop_matrix((150, 200, 187.5, 250), SIZE, rotation=-25)
    then = crop_matrix((40, 50, 60, 90), (64, 48), rotation=70, udp=True)
    points = torch.tensor([[0.0, 0.0], [3.5, -7.25], [191.0, 255.0]], dtype=torch.float64)
    torch.testing.assert_close(moved(moved(points, first), then), moved(points, joined(first, then)))
    for matrix in (first, then):
        torch.testing.assert_close(joined(matrix, inverse(matrix)), IDENTITY, atol=1e-12, rtol=0)
        torch.testing.assert_close(joined(inverse(matrix), matrix), IDENTITY, atol=1e-12, rtol=0)


def test_points_keep_their_type_and_shape():
    points = torch.arange(12.0).reshape(2, 3, 2)
    result = moved(points, torch.tensor([[2.0, 0, 1], [0, -1, 5]], dtype=torch.float64))
    assert result.dtype == torch.float32
    assert torch.equal(result, torch.stack((2 * points[..., 0] + 1, 5 - points[..., 1]), -1))


def test_mirror():
    assert at(mirror_matrix(5), 0, 3) == [4, 3]
    image = torch.arange(15, dtype=torch.uint8).reshape(1, 3, 5)
    assert torch.equal(warp(image, mirror_matrix(5), (3, 5)), image.flip(-1))


def plain_warp(image, matrix, size):
    """Bilinear interpolation one pixel after the other, between positions of 1 / 32 pixel."""
    back = inverse(matrix)
    channels, height, width = image.shape
    result = torch.zeros(channels, *size)

    def value(c, x, y):
        return float(image[c, y, x]) if 0 <= x < width and 0 <= y < height else 0.0

    for row in range(size[0]):
        for column in range(size[1]):
            x, y = (round(v * SUBPIXELS) / SUBPIXELS for v in at(back, column, row))
            x0, y0 = math.floor(x), math.floor(y)
            for c in range(channels):
                result[c, row, column] = sum(
                    wx * wy * value(c, x0 + i, y0 + j)
                    for i, wx in enumerate((1 - (x - x0), x - x0))
                    for j, wy in enumerate((1 - (y - y0), y - y0))
                )
    return result


@pytest.mark.parametrize(
    "matrix",
    [
        crop_matrix((5.0, 4.0, 6.1, 8.3), (8, 6)),
        crop_matrix((5.0, 4.0, 6.1, 8.3), (8, 6), udp=True),
        crop_matrix((5.0, 4.0, 6.1, 8.3), (8, 6), rotation=33),
        crop_matrix((0.5, 7.0, 9.0, 12.0), (8, 6), rotation=-70),  # beyond two borders
        joined(crop_matrix((6.0, 4.0, 2.0, 3.0), (8, 6), rotation=120), mirror_matrix(6)),
    ],
    ids=["crop", "udp", "rotated", "border", "mirrored"],
)
def test_warp_is_bilinear(matrix):
    image = torch.randint(0, 256, (3, 9, 11), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    result = warp(image, matrix, (8, 6))
    assert result.dtype == torch.uint8
    assert result.shape == (3, 8, 6)
    assert float((result.float() - plain_warp(image, matrix, (8, 6))).abs().max()) <= 0.51  # rounded to integers


def test_crop_of_the_whole_image_is_the_image():
    image = torch.randint(0, 256, (1, 9, 11), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(warp(image, crop_matrix((5.5, 4.5, 11, 9), (9, 11)), (9, 11)), image)
    assert torch.equal(warp(image, crop_matrix((5, 4, 10, 8), (9, 11), udp=True), (9, 11)), image)


@pytest.mark.parametrize("centre", [(-50, 4), (60, 4), (5, -50), (5, 60), (-40, 90)])
def test_outside_the_image_is_black(centre):
    image = torch.full((3, 9, 11), 255, dtype=torch.uint8)
    assert not warp(image, crop_matrix((*centre, 9, 12), (8, 6)), (8, 6)).any()


def test_half_outside():
    image = torch.full((1, 4, 4), 200, dtype=torch.uint8)
    matrix = torch.tensor([[1.0, 0, 2], [0, 1, 0]], dtype=torch.float64)  # two pixels to the right
    assert warp(image, matrix, (4, 4)).tolist() == [[[0, 0, 200, 200]] * 4]
    matrix[0, 2] = 0.5
    assert warp(image, matrix, (1, 5)).tolist() == [[[100, 200, 200, 200, 100]]]
