"""Masks by hand, and the other nouns that cross folder borders."""

import dataclasses
import json

import pytest
import torch

from vertebra.errors import VertebraError
from vertebra.structures import KeypointSchema, Masks, Prediction, Preprocess


def mask_of(*rows: str) -> torch.Tensor:
    """[h, w] bool from rows of `#` and `.`."""
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


CORNER = mask_of(
    "....",
    ".##.",
    "..#.",
)
FULL = torch.ones(3, 4, dtype=torch.bool)
EMPTY = torch.zeros(3, 4, dtype=torch.bool)


def test_dense_masks_are_cropped_to_their_pixels():
    masks = Masks.from_dense(torch.stack((CORNER, EMPTY, FULL)))
    assert masks.size == (3, 4)
    assert len(masks) == 3
    assert masks.corners == [(1, 1), (0, 0), (0, 0)]
    assert masks.crops[0].tolist() == [[True, True], [False, True]]
    assert [tuple(crop.shape) for crop in masks.crops] == [(2, 2), (0, 0), (3, 4)]
    assert all(crop.dtype == torch.bool for crop in masks.crops)


def test_dense_is_the_inverse():
    dense = torch.rand(5, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.8
    masks = Masks.from_dense(dense)
    assert torch.equal(masks.dense(), dense)
    for i in range(5):
        assert torch.equal(masks[i], dense[i])


def test_a_mask_is_appended_at_its_place():
    masks = Masks((6, 8))
    masks.append(3, 2, CORNER)  # its pixels start at x 3 + 1, y 2 + 1
    masks.append(5, 1, EMPTY)
    assert masks.corners == [(4, 3), (5, 1)]
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[3, 4] = expected[3, 5] = expected[4, 5] = True
    assert torch.equal(masks[0], expected)
    assert not masks[1].any()
    assert masks.dense().shape == (2, 6, 8)


def test_an_appended_mask_does_not_hold_on_to_the_image():
    whole = torch.zeros(100, 100, dtype=torch.bool)
    whole[4, 5] = True
    masks = Masks((100, 100))
    masks.append(0, 0, whole)
    assert masks.crops[0].untyped_storage().nbytes() == 1


def test_boxes_and_areas():
    masks = Masks.from_dense(torch.stack((CORNER, EMPTY, FULL)))
    assert masks.boxes().tolist() == [[1, 1, 3, 3], [0, 0, 0, 0], [0, 0, 4, 3]]
    assert masks.boxes().dtype == masks.areas().dtype == torch.float32
    assert masks.areas().tolist() == [3, 0, 12]


def test_take_keeps_the_order_of_the_indices():
    masks = Masks.from_dense(torch.stack((CORNER, EMPTY, FULL)))
    taken = masks.take([2, 0])
    assert taken.size == (3, 4)
    assert torch.equal(taken.dense(), torch.stack((FULL, CORNER)))
    assert len(masks.take([])) == 0


def test_no_masks():
    for masks in (Masks((3, 4)), Masks.from_dense(torch.zeros(0, 3, 4, dtype=torch.bool))):
        assert len(masks) == 0
        assert masks.dense().shape == (0, 3, 4)
        assert masks.dense().dtype == torch.bool
        assert masks.boxes().shape == (0, 4)
        assert masks.areas().shape == (0,)


def test_a_prediction_takes_every_field_of_its_instances():
    prediction = Prediction(
        boxes=torch.arange(12.0).view(3, 4),
        labels=torch.tensor([5, 6, 7]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        masks=Masks.from_dense(torch.stack((CORNER, EMPTY, FULL))),
        keypoints=torch.arange(18.0).view(3, 2, 3),
        size=(3, 4),
        semantic=torch.zeros(3, 4, dtype=torch.int64),
        id=4,
    )
    taken = prediction.take([2, 0])
    assert taken.labels.tolist() == [7, 5]
    assert taken.scores.tolist() == pytest.approx([0.7, 0.9])
    assert taken.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert taken.keypoints[:, 0, 0].tolist() == [12, 0]
    assert torch.equal(taken.masks.dense(), torch.stack((FULL, CORNER)))
    assert taken.semantic is prediction.semantic
    assert (taken.id, taken.size) == (4, (3, 4))


@pytest.mark.parametrize(
    "value", [Preprocess((3, 5), mean=(0.5,), std=(0.1,)), KeypointSchema(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2))]
)
def test_dataclasses_come_back_from_json(value):
    assert type(value).from_dict(json.loads(json.dumps(dataclasses.asdict(value)))) == value


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [
        ((0, 1), r"keypoints\.flip_indices is \(0, 1\); it must have all 3 keypoints, once each"),
        (
            (1, 2, 0),
            r"flip_indices makes 'nose' 'left' in the mirror image, but 'left' 'right'; two keypoints must swap",
        ),
    ],
)
def test_flip_indices_that_are_no_mirror_image(indices, sentence):
    assert KeypointSchema(("nose", "left", "right"), flip_indices=(0, 2, 1)).flip_indices == (0, 2, 1)
    with pytest.raises(VertebraError, match=sentence):
        KeypointSchema(("nose", "left", "right"), flip_indices=indices)
