"""What `vertebra data` says of keypoints: how often each is labelled, and labels that may be wrong."""

import io

import pytest
import torch
from rich.console import Console

from vertebra import kinds
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.structures import COCO_PERSON, KeypointSchema, Target

SCHEMA = KeypointSchema(
    ("nose", "l_ear", "r_ear", "l_hip", "r_hip", "l_foot", "r_foot"), flip_indices=(0, 2, 1, 4, 3, 6, 5)
)
BOX = [10.0, 10.0, 30.0, 50.0]  # a fifth of its width is 4 pixels
FRONT = [[20, 12, 2], [25, 14, 2], [15, 14, 2], [25, 30, 2], [15, 30, 2], [25, 48, 2], [15, 48, 1]]
"""A person seen from the front: the left is on the right, each pair 10 pixels apart."""


def changed(**keypoints: list[float]) -> list[list[float]]:
    """FRONT with other values of some keypoints."""
    return [keypoints.get(name, values) for name, values in zip(SCHEMA.names, FRONT, strict=True)]


def catalogue(*objects: list[list[float]], schema: KeypointSchema = SCHEMA, crowd: int = -1, **splits) -> Catalogue:
    """Images of 40 x 60 pixels: in train a.png without objects, and b.png with those given, of which the one with the
    index `crowd` is a crowd region; of every other split one image."""

    def sample(name: str, keypoints: list[list[list[float]]]) -> Sample:
        count = len(keypoints)
        target = Target(
            boxes=torch.tensor([BOX] * count).reshape(-1, 4),
            labels=torch.zeros(count, dtype=torch.int64),
            keypoints=torch.tensor(keypoints, dtype=torch.float32).reshape(count, len(schema.names), 3),
            crowd=torch.arange(count) == crowd,
            areas=torch.full((count,), 800.0),
            size=(60, 40),
            path=name,
        )
        return Sample(torch.zeros(3, 60, 40, dtype=torch.uint8), target, annotation_ids=tuple(range(70, 70 + count)))

    members = {"train": [sample("a.png", []), sample("b.png", list(objects))]}
    members |= {split: [sample(f"{split}.png", listed)] for split, listed in splits.items()}
    return Catalogue("set", "coco", ("person",), members, has=frozenset({"boxes", "keypoints"}), keypoints=schema)


def notes(*objects: list[list[float]], **options) -> list[str]:
    return kinds.find("keypoints").notes(catalogue(*objects, **options))


def table(data: Catalogue) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=80).print(kinds.find("keypoints").tables(data, {})[-1])
    return [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_visibilities_are_counted():
    absent = [[0.0, 0.0, 0.0]] * 7
    printed = table(catalogue(FRONT, FRONT, absent, crowd=1, val=[FRONT], test=[]))
    assert "keypoints: 2 visible, 1 occluded, 0 not labelled" in printed
    assert "train train train val val val test test test" in printed
    assert "keypoint 2 1 0 2 1 0 2 1 0" in printed
    assert "nose 1 0 1 1 0 0 0 0 0" in printed
    assert "r_foot 0 1 1 0 1 0 0 0 0" in printed


def test_three_splits_of_many_persons_fit_into_80_columns():
    split = [[[0.0, 0.0, 2.0]] * 17]
    data = catalogue(*split * 3000, schema=COCO_PERSON, val=split * 2000, test=split * 1000)
    assert any(line == "right_shoulder 3000 0 0 2000 0 0 1000 0 0" for line in table(data))


def test_a_name_is_no_markup():
    assert "[red]left 1 0 0" in table(catalogue([[1, 1, 2]], schema=KeypointSchema(("[red]left",))))


def test_nothing_to_note():
    assert notes(FRONT, FRONT) == []


def test_keypoints_without_a_label_in_train():
    assert notes(changed(l_ear=[0, 0, 0]), changed(l_ear=[9, 9, 0]), val=[FRONT]) == [
        "1 of 7 keypoints have no label in train: l_ear"
    ]
    schema = KeypointSchema(tuple(map(str, range(30))))
    (note,) = notes([[1, 1, 2], *[[0, 0, 0]] * 29], schema=schema)
    assert note == f"29 of 30 keypoints have no label in train: {', '.join(map(str, range(1, 21)))}, ..."


def test_objects_without_a_labelled_keypoint():
    absent = [[0, 0, 0]] * 7
    assert notes(FRONT, absent, absent, crowd=1) == ["objects without a labelled keypoint: 1 (b.png, annotation 72)"]
    assert notes(FRONT, FRONT, val=[FRONT, absent]) == [
        "objects without a labelled keypoint: 1 (val.png, annotation 71)"
    ]
    assert notes(FRONT, *[absent] * 3, val=[absent]) == [
        "objects without a labelled keypoint: 4 (b.png, annotation 71; b.png, annotation 72; b.png, annotation 73; ...)"
    ]


@pytest.mark.parametrize(
    ("place", "outside", "far"),
    [
        ([0, 14, 2], False, False),
        ([-0.5, 14, 2], True, True),
        ([-0.5, 14, 0], False, False),  # not labelled
        ([40, 14, 1], False, False),  # the border of the image, and half a box from the box
        ([41, 14, 1], True, True),
        ([20, -1, 2], True, False),
        ([20, 60, 2], False, False),
        ([20, 61, 2], True, False),
        ([20, -11, 2], True, True),
        ([20, 71, 2], True, True),
    ],
)
def test_keypoints_outside_of_the_image_and_of_the_box(place, outside, far):
    expected = ["keypoints outside of their image: 1 (nose of b.png, annotation 71)"] * outside
    expected += [
        "keypoints outside of their box by more than half its width or height: 1 (nose of b.png, annotation 71)"
    ] * far
    assert notes(FRONT, changed(nose=place)) == expected


SWAPPED = changed(l_ear=[15, 14, 2], r_ear=[25, 14, 2])


def test_a_swapped_pair():
    mirrored = [[40 - x, y, visibility] for x, y, visibility in SWAPPED]
    assert notes(FRONT, SWAPPED, mirrored) == [
        "mirror pairs that may be swapped, as all others of the object are in the other order: 2 (l_ear and r_ear of "
        "b.png, annotation 71; l_ear and r_ear of b.png, annotation 72)"
    ]


@pytest.mark.parametrize(
    "keypoints",
    [
        changed(l_ear=[18, 14, 2], r_ear=[22, 14, 2]),  # no more than 20% of the width
        changed(l_ear=[15, 14, 2], r_ear=[25, 14, 0]),  # one of the pair is not labelled
        changed(l_ear=[15, 14, 2], r_ear=[25, 14, 2], l_hip=[20, 30, 2], r_hip=[20, 30, 2]),  # two pairs count
        [[40 - x, y, visibility] for x, y, visibility in FRONT],  # from behind
    ],
)
def test_a_pair_that_may_be_as_it_is(keypoints):
    assert notes(keypoints, FRONT) == []


def test_two_pairs_against_two_are_a_twist():
    schema = KeypointSchema(tuple("abcdefgh"), flip_indices=(1, 0, 3, 2, 5, 4, 7, 6))
    sides = [[15, 14, 2], [25, 14, 2]]
    assert notes([*sides, *sides, *sides[::-1], *sides[::-1]], schema=schema) == []
    (note,) = notes([*sides, *sides, *sides, *sides[::-1]], schema=schema)
    assert note.endswith(": 1 (g and h of b.png, annotation 70)")


def test_without_mirror_pairs():
    assert notes([[15, 14, 2], [25, 14, 2]], schema=KeypointSchema(("left", "right"))) == []
