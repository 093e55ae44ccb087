"""Masks read and written: every form gives the same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data import segments
from vertebra.errors import VertebraError

RING = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 1, 0]], bool)


def masks() -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [torch.from_numpy(RING), *(torch.from_numpy(random.random((9, 13)) < p) for p in (0.1, 0.3, 0.5, 0.7, 0.95))]


@pytest.mark.parametrize("mask", masks())
def test_an_outline_fills_to_its_mask(mask):
    polygon = segments.outline(mask)
    assert torch.equal(segments.decode([polygon], tuple(mask.shape), ""), mask)


def test_outlines_by_hand():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    assert segments.outline(mask) == []
    mask[1:3, 2:4] = True
    assert segments.outline(mask) == [2, 1, 4, 1, 4, 3, 2, 3]
    assert segments.polygon_area([2, 1, 4, 1, 4, 3, 2, 3]) == segments.polygon_area([2, 3, 4, 3, 4, 1, 2, 1]) == 4


@pytest.mark.parametrize("mask", masks())
def test_polygons_fill_to_their_mask_and_touch_no_point_twice(mask):
    polygons = segments.polygons(mask)
    assert torch.equal(segments.decode(polygons, tuple(mask.shape), ""), mask)
    assert sum(map(segments.polygon_area, polygons)) == mask.sum()
    for polygon in polygons:
        points = list(zip(polygon[::2], polygon[1::2]))
        assert len(set(points)) == len(points)


def test_a_mask_is_cut_at_its_holes():
    mask = torch.ones(4, 5, dtype=torch.bool)
    assert segments.polygons(mask) == [[0, 0, 5, 0, 5, 4, 0, 4]]
    mask[1, 1] = mask[1:3, 3] = False  # one cut, below the first row of both, opens the two
    upper = [0, 0, 5, 0, 5, 2, 4, 2, 4, 1, 3, 1, 3, 2, 2, 2, 2, 1, 1, 1, 1, 2, 0, 2]
    assert segments.polygons(mask) == [upper, [0, 2, 3, 2, 3, 3, 4, 3, 4, 2, 5, 2, 5, 4, 0, 4]]
    assert segments.polygons(torch.zeros(3, 3, dtype=torch.bool)) == []
    assert segments.polygons(torch.eye(2, dtype=torch.bool)) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]


@pytest.mark.parametrize("mask", masks())
def test_encoding_comes_back(mask):
    encoded = segments.encode(mask, tuple(mask.shape), "")
    assert isinstance(encoded["counts"], str)
    assert torch.equal(segments.decode(encoded, tuple(mask.shape), ""), mask)


@pytest.mark.parametrize("form", ["L", "1", "RGB", "RGBA", "P", "I;16"])
def test_an_image_file_is_a_mask(tmp_path, form):
    path = tmp_path / "mask.png"
    values = RING.astype(np.uint8)
    if form == "1":
        image = Image.fromarray(RING)
    elif form in ("RGB", "RGBA"):
        colours = np.stack([0 * values, values, 0 * values], -1)
        image = Image.fromarray(colours if form == "RGB" else np.concatenate([colours, 255 + 0 * colours[..., :1]], -1))
    elif form == "P":
        image = Image.fromarray(values).convert("P")
        image.putpalette([9, 9, 9, 200, 0, 0])  # the ground's colour is not black, but its number is 0
        image.putdata(values.ravel().tolist())
    else:
        image = Image.fromarray(values.astype(np.uint16) if form == "I;16" else values)
    image.save(path)
    assert np.array_equal(segments.decode(path, RING.shape, ""), RING)


def test_an_instance_map(tmp_path):
    values = np.array([[0, 300, 300, 0], [7, 0, 300, 7], [7, 0, 0, 0]], np.uint16)
    Image.fromarray(values).save(tmp_path / "n.png")
    size, instances = segments.read_instance_map(tmp_path / "n.png")
    assert size == (3, 4)
    assert [(x.number, x.box, x.area) for x in instances] == [(7, (0, 1, 4, 3), 3), (300, (1, 0, 3, 2), 3)]
    for instance in instances:
        assert np.array_equal(segments.decode(instance.segment, size, ""), values == instance.number)


def test_masks_that_cannot_be_decoded(tmp_path):
    with pytest.raises(VertebraError, match="here: a mask of 2 x 3 pixels lies on an image of 4 x 5"):
        segments.decode(torch.zeros(2, 3, dtype=torch.bool), (4, 5), "here")
    with pytest.raises(VertebraError, match=r"here: a mask cannot be decoded \("):
        segments.decode({"size": [4, 5], "counts": [3, 4]}, (4, 5), "here")
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(VertebraError, match=r"mask\.png: not an image"):
        segments.decode(tmp_path / "mask.png", (4, 5), "here")
    Image.new("RGB", (3, 3)).save(tmp_path / "colours.png")
    with pytest.raises(VertebraError, match=r"colours\.png: its pixels are colours"):
        segments.read_instance_map(tmp_path / "colours.png")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array([[0, np.nan]], np.float32), "its pixels are not whole"),
        (np.array([[0, 1.5]], np.float32), "its pixels are not whole"),
        (np.array([[0, np.inf]], np.float32), "its pixels are from 0 to inf; numbers of instances are from 0"),
        (np.array([[0, -1]], np.int32), "its pixels are from -1 to 0; numbers of instances are from 0"),
    ],
)
def test_instance_maps_of_other_numbers(tmp_path, values, sentence):
    Image.fromarray(values).save(tmp_path / "n.tif")
    with pytest.raises(VertebraError, match=rf"n\.tif: {sentence}"):
        segments.read_instance_map(tmp_path / "n.tif")


def test_noise_is_no_instance_map(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "MAX_INSTANCES", 5)
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "n.png")
    with pytest.raises(VertebraError, match="its pixels have 11 numbers; at most 5 are read"):
        segments.read_instance_map(tmp_path / "n.png")


def test_whole_floats_are_an_instance_map(tmp_path):
    Image.fromarray(np.array([[0, 3, 3], [0, 0, 7]], np.float32)).save(tmp_path / "n.tif")
    _, instances = segments.read_instance_map(tmp_path / "n.tif")
    assert [(x.number, x.area) for x in instances] == [(3, 2), (7, 1)]


@pytest.mark.parametrize(
    ("segment", "fault"),
    [
        ({"size": [4, 5], "counts": [20, True]}, "its run lengths are not all whole numbers"),
        ({"size": [4, 5], "counts": [1e400]}, "its run lengths are not all whole numbers"),
        ({"size": [4.0, "5"], "counts": [20]}, r"its mask is of size [4.0, '5'], the image [4, 5] (height, width)"),
        ([[0, 0, 3, True, 3, 3]], "a polygon of it has a point that is not a number"),
        ([[0, 0, 3, 1e300, 3, 3]], "a polygon of it has a point that is not a number"),
        ([[0, 0, 3, "3", 3, 3]], "a polygon of it has a point that is not a number"),
        ([{}], "its segmentation is neither a list of polygons nor run lengths (size and counts)"),
    ],
)
def test_values_of_other_types(segment, fault):
    assert segments.fault(segment, (4, 5)) == fault


def test_masks_of_images_that_are_too_large_are_not_decoded():
    run_lengths = {"size": [100_000, 100_000], "counts": [10**10]}
    assert segments.fault(run_lengths, (100_000, 100_000)) == (
        "its mask is of an image of 100000 x 100000 pixels; more than 178,956,970 are not decoded"
    )
