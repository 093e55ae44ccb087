"""Pictures and their objects moved together: values worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vertebra import pictures
from vertebra.data import scenes
from vertebra.data.catalogue import Sample
from vertebra.data.scenes import Scene
from vertebra.structures import Points, Preprocess, Target

PREPROCESS = Preprocess()


def scene(
    boxes: list, size: tuple[int, int] = (10, 20), *, crowd: list[bool] | None = None, keypoints: list | None = None
) -> Scene:
    """Pictures that are 10 * i + 10 inside box i, masks that fill their boxes, labels and areas from the boxes."""
    picture, pieces = torch.zeros(3, *size, dtype=torch.uint8), []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        picture[:, y1:y2, x1:x2] = 10 * i + 10
        pieces.append((x1, y1, np.ones((y2 - y1, x2 - x1), bool)))
    target = Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        crowd=None if crowd is None else torch.tensor(crowd),
        areas=torch.tensor([float((b[2] - b[0]) * (b[3] - b[1])) for b in boxes]),
        keypoints=None if keypoints is None else torch.tensor(keypoints, dtype=torch.float32),
        size=size,
    )
    return Scene(picture, target, pieces)


def boxes(found: Scene) -> list:
    return found.boxes.tolist()


def whole(found: Scene) -> list[torch.Tensor]:
    """The masks over the whole picture; they and the picture must agree."""
    masks = []
    for x, y, mask in found.masks:
        masks.append(torch.zeros(found.size, dtype=torch.bool))
        masks[-1].numpy()[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return masks


def bounds(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def agree(found: Scene) -> bool:
    """Whether picture, masks and boxes of `scene` still tell the same; objects must not overlap."""
    values = [10 * int(label) + 10 for label in found.target.labels]
    masks = whole(found)
    assert found.target.size == found.size
    return all(
        torch.equal(found.picture[0] == value, mask) and bounds(mask) == box
        for value, mask, box in zip(values, masks, boxes(found), strict=True)
    )


# -- flips and turns


def test_flip():
    found = scenes.flip(scene([(2, 1, 5, 4)]))
    assert boxes(found) == [[15, 1, 18, 4]]  # 20 - 5, 20 - 2
    assert agree(found)


def test_flip_vertical():
    found = scenes.flip_vertical(scene([(2, 1, 5, 4)]))
    assert boxes(found) == [[2, 6, 5, 9]]  # 10 - 4, 10 - 1
    assert agree(found)


POINTS = Points(("nose", "left", "right"), flip=(0, 2, 1))


def test_keypoints_change_sides_in_the_mirror():
    """The pixel in column 3 of 20 becomes that in column 16; an absent keypoint stays at 0, 0."""
    source = scene([(2, 1, 9, 8)], keypoints=[[[3, 2, 2], [4, 5, 1], [0, 0, 0]]])
    found = scenes.flip(source, POINTS)
    assert found.target.keypoints.tolist() == [[[16, 2, 2], [0, 0, 0], [15, 5, 1]]]
    assert scenes.flip(source).target.keypoints.tolist() == [[[16, 2, 2], [15, 5, 1], [0, 0, 0]]]
    upside = scenes.flip_vertical(source, POINTS)
    assert upside.target.keypoints.tolist() == [[[3, 7, 2], [0, 0, 0], [4, 4, 1]]]
    turned = scenes.flip_vertical(scenes.flip(source, POINTS), POINTS)  # half a turn, which is no mirror
    assert turned.target.keypoints.tolist() == scenes.turn(source, 2).target.keypoints.tolist()


@pytest.mark.parametrize(
    ("quarters", "size", "box"),
    [
        (0, (10, 20), [2, 1, 5, 4]),
        (1, (20, 10), [1, 15, 4, 18]),  # x from y, y from 20 - x
        (2, (10, 20), [15, 6, 18, 9]),
        (3, (20, 10), [6, 2, 9, 5]),  # x from 10 - y, y from x
    ],
)
def test_quarter_turns_against_the_clock(quarters, size, box):
    source = scene([(2, 1, 5, 4)], keypoints=[[[2, 1, 2], [0, 0, 0], [4, 3, 1]]])
    found = scenes.turn(source, quarters)
    assert found.size == size
    assert boxes(found) == [box]
    assert agree(found)
    assert torch.equal(found.picture, torch.rot90(source.picture, quarters, (1, 2)))
    x, y, visible = found.target.keypoints[0, 0].tolist()
    corner = {0: (2, 1), 1: (1, 17), 2: (17, 8), 3: (8, 2)}[quarters]
    assert (x, y, visible) == (*corner, 2)
    assert found.target.keypoints[0, 1].tolist() == [0, 0, 0]  # and no change of sides


# -- sizes


def test_resize():
    source = scene([(2, 1, 5, 4)], keypoints=[[[2, 1, 2], [0, 0, 0], [4, 3, 1]]])
    found = scenes.resize(source, (20, 60), PREPROCESS)
    assert boxes(found) == [[6, 2, 15, 8]]
    assert bounds(whole(found)[0]) == [6, 2, 15, 8]
    assert found.target.keypoints.tolist() == [[[6, 2, 2], [0, 0, 0], [12, 6, 1]]]
    assert found.target.areas.tolist() == [9 * 6]
    assert found.size == found.target.size == (20, 60)


@pytest.mark.parametrize("size", [(7, 11), (16, 31), (96, 48), (32, 24), (1, 1)])
def test_masks_are_resized_as_torchvision_does(size):
    random = np.random.default_rng(0)
    source = scene([(0, 0, 1, 1)] * 20, (32, 24))
    masks = [random.random((32, 24)) < share for share in np.linspace(0.01, 0.9, 20)]
    source.masks = [scenes.tight(0, 0, mask) for mask in masks]
    found = torch.stack(whole(scenes.resize(source, size, PREPROCESS)))
    stack = torch.from_numpy(np.stack(masks)).to(torch.uint8)
    assert torch.equal(found, F.resize(stack, list(size), F.InterpolationMode.NEAREST_EXACT).bool())


# -- crops


def test_crop():
    """The second object's centre lies outside, the third is cut, the fourth is far away."""
    source = scene([(2, 1, 5, 4), (7, 0, 14, 3), (8, 5, 11, 9), (15, 5, 18, 8)])
    found = scenes.crop(source, 1, 2, 8, 8)  # x from 2 to 10, y from 1 to 9
    assert found.target.labels.tolist() == [0, 2]
    assert boxes(found) == [[0, 0, 3, 3], [6, 4, 8, 8]]
    assert found.target.areas.tolist() == pytest.approx([9, 8])
    assert found.size == found.target.size == (8, 8)
    assert agree(found)


def test_a_cut_box_is_what_its_mask_still_shows():
    """An L of a high left stroke and a low foot, whose upper part is cut off below the stroke's top."""
    source = scene([(2, 1, 12, 9)])
    source.masks[0][2][:6, 2:] = False  # the foot is 2 high, the stroke 2 wide
    assert boxes(scenes.crop(source, 3, 0, 7, 20)) == [[2, 0, 12, 6]]
    assert boxes(scenes.crop(source, 0, 4, 8, 16)) == [[0, 7, 8, 8]]  # of the stroke nothing, of the foot a line
    source.masks = None
    assert boxes(scenes.crop(source, 0, 4, 8, 16)) == [[0, 1, 8, 8]]  # nobody knows better


def test_an_annotated_box_that_is_not_cut_stays_as_annotated():
    source = scene([(2, 1, 5, 4)])
    source.target.boxes += 0.25
    assert boxes(scenes.crop(source, 1, 1, 8, 8)) == [[1.25, 0.25, 4.25, 3.25]]


def test_an_object_that_shows_nothing_of_its_mask_leaves():
    source = scene([(2, 1, 12, 9)])
    source.masks[0][2][:, 1:] = False  # a line at its left, the centre is at 7, 5
    assert len(scenes.crop(source, 3, 5, 5, 5).boxes) == 0


def test_crowds_stay_while_any_of_them_is_seen():
    source = scene([(8, 0, 20, 10)], crowd=[True])
    found = scenes.crop(source, 0, 0, 10, 10)
    assert boxes(found) == [[8, 0, 10, 10]]
    assert found.target.crowd.tolist() == [True]
    assert len(scenes.crop(source, 0, 0, 10, 8).boxes) == 0
    source.masks = None
    assert boxes(scenes.crop(source, 0, 0, 10, 10)) == [[8, 0, 10, 10]]
    assert len(scenes.crop(source, 0, 0, 10, 8).boxes) == 0
    assert len(scenes.crop(scene([(8, 0, 20, 10)]), 0, 0, 10, 10).boxes) == 0


def test_keypoints_outside_a_crop_are_absent():
    source = scene([(2, 1, 9, 8)], keypoints=[[[3, 2, 2], [9, 5, 1], [10, 6, 2]]])
    found = scenes.crop(source, 2, 2, 7, 8)  # x from 2 to 10, y from 2 to 9
    assert found.target.keypoints.tolist() == [[[1, 0, 2], [7, 3, 1], [0, 0, 0]]]


def test_a_window_beyond_the_picture_is_black():
    found = scenes.crop(scene([(0, 0, 3, 3)]), -4, -5, 20, 30)
    assert boxes(found) == [[5, 4, 8, 7]]
    assert agree(found)


def test_join():
    left, right = scene([(2, 1, 5, 4)], (10, 8)), scene([(1, 5, 4, 9)], (10, 12))
    right.target.labels += 1
    right.picture *= 2
    found = scenes.join([(0, 0, left), (0, 8, right)], (10, 20))
    assert boxes(found) == [[2, 1, 5, 4], [9, 5, 12, 9]]
    assert found.target.labels.tolist() == [0, 1]
    assert found.target.crowd.tolist() == [False, False]
    assert agree(found)


# -- copy-paste


def test_paste():
    """The pasted block hides the first object's right half, the second wholly, and of the third nothing."""
    source = scene([(2, 2, 8, 6), (5, 3, 7, 5), (15, 2, 18, 5)])
    donor = scene([(5, 0, 10, 8)])
    donor.target.labels += 3
    donor.picture *= 4  # 40, as label 3 says
    found = scenes.paste(source, donor)
    assert found.target.labels.tolist() == [0, 2, 3]
    assert boxes(found) == [[2, 2, 5, 6], [15, 2, 18, 5], [5, 0, 10, 8]]
    assert found.target.areas.tolist() == [12, 9, 40]
    assert agree(found)
    assert boxes(source)[0] == [2, 2, 8, 6]  # what was read stays as it is


def test_paste_cuts_a_hole():
    source, donor = scene([(2, 2, 8, 8)]), scene([(4, 4, 6, 6)])
    found = scenes.paste(source, donor)
    assert boxes(found) == [[2, 2, 8, 8], [4, 4, 6, 6]]
    assert [int(mask.sum()) for mask in whole(found)] == [32, 4]


def test_paste_of_nothing():
    found = scenes.paste(scene([(2, 2, 8, 8)]), scene([]))
    assert boxes(found) == [[2, 2, 8, 8]]
    assert boxes(scenes.paste(scene([]), scene([(2, 2, 8, 8)]))) == [[2, 2, 8, 8]]


# -- the target in the end


def test_settle_drops_what_is_less_than_a_pixel():
    source = scene([(2, 1, 5, 4), (7, 1, 9, 3), (10, 1, 13, 4), (15, 1, 16, 2)], keypoints=[[[3, 3, 2]]] * 4)
    source.target.boxes[1] = torch.tensor([7, 1, 7.9, 3])
    source.masks[2][2][:] = False
    found = scenes.settle(source)
    assert found.labels.tolist() == [0, 3]
    assert found.masks.shape == (2, 10, 20)
    assert [bounds(mask) for mask in found.masks] == found.boxes.tolist() == [[2, 1, 5, 4], [15, 1, 16, 2]]
    assert len(found.keypoints) == len(found.areas) == 2


def test_settle_clips():
    source = scene([(2, 1, 5, 4)])
    source.target.boxes = torch.tensor([[-1.0, 1, 21, 12]])
    assert scenes.settle(source).boxes.tolist() == [[0, 1, 20, 10]]


def test_every_move_of_no_objects():
    source = scene([], keypoints=torch.zeros(0, 3, 3).tolist())
    source.target.keypoints = torch.zeros(0, 3, 3)
    found = scenes.crop(scenes.turn(scenes.flip(scenes.flip_vertical(source), POINTS), 1), 2, 1, 9, 6)
    target = scenes.settle(scenes.resize(found, (18, 24), PREPROCESS))
    assert (target.boxes.shape, target.labels.shape, target.masks.shape) == ((0, 4), (0,), (0, 18, 24))
    assert target.keypoints.shape == (0, 3, 3)
    assert target.size == (18, 24)


# -- reading


def sample(boxes: list, segments: tuple = (), **fields) -> Sample:
    target = Target(
        boxes=torch.tensor(boxes).reshape(-1, 4).float(), labels=torch.zeros(len(boxes)).long(), path="a.png"
    )
    for name, value in fields.items():
        setattr(target, name, value)
    return Sample(torch.zeros(3, 10, 20, dtype=torch.uint8), target, segments)


@pytest.mark.parametrize(
    "segment",
    [
        [[2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0]],
        {"size": [10, 20], "counts": [21, 3, 7, 3, 7, 3, 156]},
        torch.zeros(10, 20, dtype=torch.bool).index_fill(1, torch.tensor([2, 3, 4]), True)
        & torch.zeros(10, 20, dtype=torch.bool).index_fill(0, torch.tensor([1, 2, 3]), True),
    ],
    ids=["polygon", "runs", "tensor"],
)
def test_masks_are_read_in_every_form(segment):
    source = sample([[2, 1, 5, 4]], (segment,))
    (x, y, mask), (want,) = scenes.read(source, 3, "masks").masks[0], scenes.read_whole(source, 3, "masks").target.masks
    assert (x, y, mask.shape, bool(mask.all())) == (2, 1, (3, 3), True)
    assert bounds(want) == [2, 1, 5, 4]


def test_only_what_is_wanted_is_read():
    source = sample([[2, 1, 5, 4]], ("nonsense",), keypoints=torch.ones(1, 3, 3))
    found = scenes.read(source, 3, "boxes")
    assert (found.masks, found.target.masks, found.target.keypoints) == (None, None, None)
    assert found.target.size == (10, 20)
    assert scenes.read(source, 3, "keypoints").target.keypoints.shape == (1, 3, 3)
    assert scenes.read_whole(source, 3, "boxes").target.masks is None
    assert source.target.size is None


def test_boxes_of_masks_alone():
    on = {"size": [10, 20], "counts": [21, 3, 7, 3, 7, 3, 156]}
    off = {"size": [10, 20], "counts": [200]}
    source = sample([], (off, on))
    source = replace(source, target=replace(source.target, boxes=None, labels=torch.tensor([0, 1])))
    for field in ("boxes", "masks"):
        target = scenes.read(source, 3, field).target
        assert (target.boxes.tolist(), target.labels.tolist(), target.areas.tolist()) == ([[2, 1, 5, 4]], [1], [9])


@pytest.mark.parametrize("read", [scenes.read, scenes.read_whole])
@pytest.mark.parametrize(
    "segment",
    [{"size": [9, 20], "counts": [180]}, {"size": [10, 20], "counts": "~"}, torch.zeros(3, 3).bool()],
    ids=str,
)
def test_a_mask_that_cannot_be_decoded(read, segment):
    with pytest.raises(pictures.BrokenPicture, match=r"^a\.png, object 1: a mask .*\.$"):
        read(sample([[2, 1, 5, 4]], (segment,)), 3, "masks")


@pytest.mark.parametrize("read", [scenes.read, scenes.read_whole])
def test_a_picture_without_objects(read):
    found = read(sample([]), 3, "masks")
    assert scenes.settle(found).boxes.shape == (0, 4)
    masks = scenes.settle(found).masks if read is scenes.read else found.target.masks
    assert masks.shape == (0, 10, 20)
    assert masks.dtype == torch.bool
