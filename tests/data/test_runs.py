"""Run lengths: the same masks as the library's, in the rectangles that hold them."""

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from vertebra.data import runs
from vertebra.data.segments import decode


def whole(piece: runs.Piece, size: tuple[int, int]) -> np.ndarray:
    x, y, mask = piece
    found = np.zeros(size, bool)
    found[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return found


def encoded(mask: np.ndarray) -> dict:
    return rle.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_run_lengths_by_hand():
    """Down the columns of a picture of 3 x 4: four pixels off, three on, five off."""
    x, y, mask = runs.cut({"size": [3, 4], "counts": [4, 3, 5]}, (3, 4))
    assert (x, y) == (1, 0)
    assert mask.tolist() == [[False, True], [True, False], [True, False]]


def test_unpacking_by_hand():
    """ "1" is 1; "P" is 32, that is 0 with more to follow, before 1: 0 + 1 * 32; "O" is 31, that is -1 by bit 4."""
    assert runs.unpack("1").tolist() == [1]
    assert runs.unpack("P1").tolist() == [32]
    assert runs.unpack(b"0240O").tolist() == [0, 2, 4, 2, 3]  # the fourth is 0 + 2, the fifth -1 + 4


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 300), (300, 1), (90, 64)])
def test_the_same_as_the_library(size, share):
    random = np.random.default_rng(0)
    for _ in range(5):
        mask = random.random(size) < share
        text = encoded(mask)["counts"]
        text = text.decode() if isinstance(text, bytes) else text
        for counts in (text, text.encode()):
            assert (whole(runs.cut({"size": list(size), "counts": counts}, size), size) == mask).all()
        _, _, inner = runs.cut(encoded(mask), size)
        assert inner.size == 0 or (inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any())


def test_polygons_are_the_library_s():
    polygons = [[2.0, 1.0, 12.5, 1.0, 12.5, 8.0], [15.0, 15.0, 19.0, 15.0, 19.0, 19.0, 15.0, 19.0]]
    found = whole(runs.cut(polygons, (20, 24)), (20, 24))
    assert (found == decode(polygons, (20, 24), "x").numpy()).all()
    assert found.any()
    assert runs.cut([], (20, 24))[2].size == 0


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
def test_what_is_wrong_is_said(segment, words):
    with pytest.raises(ValueError, match=words):
        runs.cut(segment, (3, 4))


def test_tight():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 5] = True
    x, y, inner = runs.tight(10, 20, mask)
    assert (x, y, inner.tolist()) == (15, 22, [[True], [True]])
    assert runs.tight(10, 20, mask & False)[2].size == 0


def test_real_masks(data_folder):
    import json

    content = json.loads((data_folder / "coco128" / "annotations" / "instances_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        size = sizes[annotation["image_id"]]
        want = decode(annotation["segmentation"], size, "x")
        assert torch.equal(torch.from_numpy(whole(runs.cut(annotation["segmentation"], size), size)), want)
