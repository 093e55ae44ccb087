"""Run-length encoding: the same masks and strings as the library's, from and to crops."""

import json

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from vertebra.data import segments
from vertebra.ops.rle import crop_to_pixels, decode, encode, encode_mask, unpack
from vertebra.structures import Masks


def whole(crop: tuple[int, int, torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    x, y, inner = crop
    mask = np.zeros(size, bool)
    mask[y : y + inner.shape[0], x : x + inner.shape[1]] = inner.numpy()
    return mask


def library(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def test_run_lengths_by_hand():
    """Down the columns of an image of 3 x 4: four pixels off, three on, five off."""
    x, y, mask = decode({"size": [3, 4], "counts": [4, 3, 5]}, (3, 4))
    assert (x, y) == (1, 0)
    assert mask.tolist() == [[False, True], [True, False], [True, False]]


def test_unpacking_by_hand():
    """ "1" is 1; "P" is 32, that is 0 with more to follow, before 1: 0 + 1 * 32; "O" is 31, that is -1 by bit 4."""
    assert unpack("1").tolist() == [1]
    assert unpack("P1").tolist() == [32]
    assert unpack(b"0240O").tolist() == [0, 2, 4, 2, 3]  # the fourth is 0 + 2, the fifth -1 + 4


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [0, 0]], [2, 1, 1]),  # column by column
        ([[1, 0, 1], [1, 0, 0]], [0, 2, 2, 1, 1]),
    ],
)
def test_run_lengths_of_masks_by_hand(mask, counts):
    size = np.shape(mask)
    encoded = encode_mask(torch.tensor(mask, dtype=torch.bool), (0, 0), size)
    assert encoded["size"] == list(size)
    assert isinstance(encoded["counts"], str)
    assert unpack(encoded["counts"]).tolist() == counts


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_encoding_crops_gives_the_library_s_strings(share):
    random = np.random.default_rng(1)
    for height, width in ((1, 1), (40, 30), (1, 50), (50, 1)):
        masks, expected = Masks((height, width)), []
        for _ in range(6):
            x, y = int(random.integers(width)), int(random.integers(height))
            w, h = int(random.integers(width - x + 1)), int(random.integers(height - y + 1))
            crop = torch.from_numpy(random.random((h, w)) < share)
            masks.corners.append((x, y))
            masks.crops.append(crop)
            canvas = np.zeros((height, width), bool)
            canvas[y : y + h, x : x + w] = crop.numpy()
            expected.append(library(canvas))
        assert encode(masks) == expected
        assert json.loads(json.dumps(encode(masks))) == expected


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 300), (300, 1), (90, 64)])
def test_the_same_as_the_library(size, share):
    random = np.random.default_rng(0)
    for _ in range(5):
        mask = random.random(size) < share
        text = library(mask)["counts"]
        for counts in (text, text.encode()):
            assert (whole(decode({"size": list(size), "counts": counts}, size), size) == mask).all()
        _, _, inner = decode(library(mask), size)
        assert inner.numel() == 0 or (inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any())


def test_polygons_are_the_library_s():
    polygons = [[2.0, 1.0, 12.5, 1.0, 12.5, 8.0], [15.0, 15.0, 19.0, 15.0, 19.0, 19.0, 15.0, 19.0]]
    mask = whole(decode(polygons, (20, 24)), (20, 24))
    assert (mask == coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 20, 24)))).all()
    assert (mask == segments.decode(polygons, (20, 24), "x").numpy()).all()
    assert mask.any()
    assert decode([], (20, 24))[2].numel() == 0


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ({"size": [3, 4], "counts": [4, 3]}, "its runs cover 7 pixels of 3 x 4"),
        ({"size": [3, 4], "counts": [4, -3, 11]}, "a run has a negative length"),
        ({"size": [4, 3], "counts": [4, 3, 5]}, "it has 4 x 3 pixels, not 3 x 4"),
        ({"size": [3, 4], "counts": "~!"}, "not in COCO's compressed form"),
        ({"size": [3, 4], "counts": ""}, "not in COCO's compressed form"),
        ({"size": [3, 4], "counts": "P"}, "not in COCO's compressed form"),
        ({"size": [3, 4], "counts": "P" * 40 + "1"}, "not in COCO's compressed form"),
    ],
)
def test_malformed_run_lengths(segment, words):
    with pytest.raises(ValueError, match=words):
        decode(segment, (3, 4))


def test_crop_to_pixels():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 5] = True
    x, y, inner = crop_to_pixels(10, 20, mask)
    assert (x, y, inner.tolist()) == (15, 22, [[True], [True]])
    mask[3, 1] = True
    assert crop_to_pixels(0, 0, mask)[:2] == (1, 2)
    assert crop_to_pixels(0, 0, mask)[2].shape == (2, 5)
    assert crop_to_pixels(10, 20, mask & False)[2].numel() == 0


def test_real_masks(data_folder):
    content = json.loads((data_folder / "coco128" / "annotations" / "instances_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        size = sizes[annotation["image_id"]]
        mask = segments.decode(annotation["segmentation"], size, "x")
        assert torch.equal(torch.from_numpy(whole(decode(annotation["segmentation"], size), size)), mask)
