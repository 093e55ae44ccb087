"""Images and their targets moved together: values worked by hand, and every field against a drawn image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vertebra.data.catalogue import Sample
from vertebra.data.geometry import (
    Example,
    clean_target,
    crop,
    flip_horizontal,
    flip_vertical,
    join,
    paste,
    read_example,
    resize,
    rotate90,
)
from vertebra.images import UnreadableImage
from vertebra.structures import KeypointSchema, Masks, Preprocess, Target

PREPROCESS = Preprocess()


def example(
    boxes: list, size: tuple[int, int] = (10, 20), *, crowd: list[bool] | None = None, keypoints: list | None = None
) -> Example:
    """Images that are 10 * i + 10 inside box i, masks that fill their boxes, labels and areas from the boxes."""
    image, masks = torch.zeros(3, *size, dtype=torch.uint8), Masks(size)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 10 * i + 10
        masks.append(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))
    target = Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        masks=masks,
        crowd=None if crowd is None else torch.tensor(crowd),
        areas=torch.tensor([float((b[2] - b[0]) * (b[3] - b[1])) for b in boxes]),
        keypoints=None if keypoints is None else torch.tensor(keypoints, dtype=torch.float32),
        size=size,
    )
    return Example(image, target)


def boxes_of(moved: Example) -> list:
    return moved.boxes.tolist()


def bounds(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def agree(moved: Example) -> bool:
    """Whether image, masks and boxes of `example` still agree; objects must not overlap."""
    values = [10 * int(label) + 10 for label in moved.target.labels]
    assert moved.target.size == moved.size == moved.target.masks.size
    return all(
        torch.equal(moved.image[0] == value, mask) and bounds(mask) == box
        for value, mask, box in zip(values, moved.target.masks.dense(), boxes_of(moved), strict=True)
    )


# -- flips and rotations


def test_flip():
    moved = flip_horizontal(example([(2, 1, 5, 4)]))
    assert boxes_of(moved) == [[15, 1, 18, 4]]  # 20 - 5, 20 - 2
    assert agree(moved)


def test_flip_vertical():
    moved = flip_vertical(example([(2, 1, 5, 4)]))
    assert boxes_of(moved) == [[2, 6, 5, 9]]  # 10 - 4, 10 - 1
    assert agree(moved)


KEYPOINTS = KeypointSchema(("nose", "left", "right"), flip_indices=(0, 2, 1))


def test_keypoints_change_sides_in_the_mirror():
    """The pixel in column 3 of 20 becomes that in column 16; an absent keypoint stays at 0, 0."""
    source = example([(2, 1, 9, 8)], keypoints=[[[3, 2, 2], [4, 5, 1], [0, 0, 0]]])
    moved = flip_horizontal(source, KEYPOINTS)
    assert moved.target.keypoints.tolist() == [[[16, 2, 2], [0, 0, 0], [15, 5, 1]]]
    assert flip_horizontal(source).target.keypoints.tolist() == [[[16, 2, 2], [15, 5, 1], [0, 0, 0]]]
    upside = flip_vertical(source, KEYPOINTS)
    assert upside.target.keypoints.tolist() == [[[3, 7, 2], [0, 0, 0], [4, 4, 1]]]
    turned = flip_vertical(flip_horizontal(source, KEYPOINTS), KEYPOINTS)  # half a turn, which is no mirror
    assert turned.target.keypoints.tolist() == rotate90(source, 2).target.keypoints.tolist()


@pytest.mark.parametrize(
    ("turns", "size", "box"),
    [
        (0, (10, 20), [2, 1, 5, 4]),
        (1, (20, 10), [1, 15, 4, 18]),  # x from y, y from 20 - x
        (2, (10, 20), [15, 6, 18, 9]),
        (3, (20, 10), [6, 2, 9, 5]),  # x from 10 - y, y from x
    ],
)
def test_rotations_by_right_angles_anticlockwise(turns, size, box):
    source = example([(2, 1, 5, 4)], keypoints=[[[2, 1, 2], [0, 0, 0], [4, 3, 1]]])
    moved = rotate90(source, turns)
    assert moved.size == size
    assert boxes_of(moved) == [box]
    assert agree(moved)
    assert torch.equal(moved.image, torch.rot90(source.image, turns, (1, 2)))
    x, y, visible = moved.target.keypoints[0, 0].tolist()
    corner = {0: (2, 1), 1: (1, 17), 2: (17, 8), 3: (8, 2)}[turns]
    assert (x, y, visible) == (*corner, 2)
    assert moved.target.keypoints[0, 1].tolist() == [0, 0, 0]  # and no change of sides


# -- sizes


def test_resize():
    source = example([(2, 1, 5, 4)], keypoints=[[[2, 1, 2], [0, 0, 0], [4, 3, 1]]])
    moved = resize(source, (20, 60), PREPROCESS)
    assert boxes_of(moved) == [[6, 2, 15, 8]]
    assert bounds(moved.target.masks[0]) == [6, 2, 15, 8]
    assert moved.target.keypoints.tolist() == [[[6, 2, 2], [0, 0, 0], [12, 6, 1]]]
    assert moved.target.areas.tolist() == [9 * 6]
    assert moved.size == moved.target.size == (20, 60)


@pytest.mark.parametrize("size", [(7, 11), (16, 31), (96, 48), (32, 24), (1, 1)])
def test_masks_and_label_maps_are_resized_as_torchvision_does(size):
    random = np.random.default_rng(0)
    source = example([(0, 0, 1, 1)] * 20, (32, 24))
    masks = [random.random((32, 24)) < share for share in np.linspace(0.01, 0.9, 20)]
    stack = torch.from_numpy(np.stack(masks))
    source.target.masks = Masks.from_dense(stack)
    source.target.semantic = torch.from_numpy(random.integers(0, 256, (32, 24)))
    moved = resize(source, size, PREPROCESS).target

    def expected(images: torch.Tensor) -> torch.Tensor:
        return F.resize(images.to(torch.uint8), list(size), F.InterpolationMode.NEAREST_EXACT)

    assert torch.equal(moved.masks.dense(), expected(stack).bool())
    assert torch.equal(moved.semantic, expected(source.target.semantic[None])[0].long())


# -- crops


def test_crop():
    """The second object's centre lies outside, the third is cut, the fourth is far away."""
    source = example([(2, 1, 5, 4), (7, 0, 14, 3), (8, 5, 11, 9), (15, 5, 18, 8)])
    moved = crop(source, 1, 2, 8, 8)  # x from 2 to 10, y from 1 to 9
    assert moved.target.labels.tolist() == [0, 2]
    assert boxes_of(moved) == [[0, 0, 3, 3], [6, 4, 8, 8]]
    assert moved.target.areas.tolist() == pytest.approx([9, 8])
    assert moved.size == moved.target.size == (8, 8)
    assert agree(moved)


def test_a_cut_box_bounds_what_is_left_of_its_mask():
    """An L of a high left stroke and a low foot, whose upper part is cut off below the stroke's top."""
    source = example([(2, 1, 12, 9)])
    source.target.masks.crops[0][:6, 2:] = False  # the foot is 2 high, the stroke 2 wide
    assert boxes_of(crop(source, 3, 0, 7, 20)) == [[2, 0, 12, 6]]
    assert boxes_of(crop(source, 0, 4, 8, 16)) == [[0, 7, 8, 8]]  # of the stroke nothing, of the foot a line
    source.target.masks = None
    assert boxes_of(crop(source, 0, 4, 8, 16)) == [[0, 1, 8, 8]]  # without a mask the box is clipped


def test_an_annotated_box_that_is_not_cut_stays_as_annotated():
    source = example([(2, 1, 5, 4)])
    source.target.boxes += 0.25
    assert boxes_of(crop(source, 1, 1, 8, 8)) == [[1.25, 0.25, 4.25, 3.25]]


def test_an_object_without_a_pixel_left_is_dropped():
    source = example([(2, 1, 12, 9)])
    source.target.masks.crops[0][:, 1:] = False  # a line at its left, the centre is at 7, 5
    assert len(crop(source, 3, 5, 5, 5).boxes) == 0


def test_crowds_stay_while_any_pixel_is_left():
    source = example([(8, 0, 20, 10)], crowd=[True])
    moved = crop(source, 0, 0, 10, 10)
    assert boxes_of(moved) == [[8, 0, 10, 10]]
    assert moved.target.crowd.tolist() == [True]
    assert len(crop(source, 0, 0, 10, 8).boxes) == 0
    source.target.masks = None
    assert boxes_of(crop(source, 0, 0, 10, 10)) == [[8, 0, 10, 10]]
    assert len(crop(source, 0, 0, 10, 8).boxes) == 0
    assert len(crop(example([(8, 0, 20, 10)]), 0, 0, 10, 10).boxes) == 0


def test_keypoints_outside_a_crop_are_absent():
    source = example([(2, 1, 9, 8)], keypoints=[[[3, 2, 2], [9, 5, 1], [10, 6, 2]]])
    moved = crop(source, 2, 2, 7, 8)  # x from 2 to 10, y from 2 to 9
    assert moved.target.keypoints.tolist() == [[[1, 0, 2], [7, 3, 1], [0, 0, 0]]]


def test_a_window_beyond_the_border_is_black():
    moved = crop(example([(0, 0, 3, 3)]), -4, -5, 20, 30)
    assert boxes_of(moved) == [[5, 4, 8, 7]]
    assert agree(moved)


def test_join():
    left, right = example([(2, 1, 5, 4)], (10, 8)), example([(1, 5, 4, 9)], (10, 12))
    right.target.labels += 1
    right.image *= 2
    moved = join([(0, 0, left), (0, 8, right)], (10, 20))
    assert boxes_of(moved) == [[2, 1, 5, 4], [9, 5, 12, 9]]
    assert moved.target.labels.tolist() == [0, 1]
    assert moved.target.crowd.tolist() == [False, False]
    assert agree(moved)


# -- copy-paste


def test_paste():
    """The pasted block hides the first object's right half, the second wholly, and of the third nothing."""
    source = example([(2, 2, 8, 6), (5, 3, 7, 5), (15, 2, 18, 5)])
    donor = example([(5, 0, 10, 8)])
    donor.target.labels += 3
    donor.image *= 4  # 40, as label 3 says
    moved = paste(source, donor)
    assert moved.target.labels.tolist() == [0, 2, 3]
    assert boxes_of(moved) == [[2, 2, 5, 6], [15, 2, 18, 5], [5, 0, 10, 8]]
    assert moved.target.areas.tolist() == [12, 9, 40]
    assert agree(moved)
    assert boxes_of(source)[0] == [2, 2, 8, 6]  # what was read stays as it is


def test_paste_cuts_a_hole():
    source, donor = example([(2, 2, 8, 8)]), example([(4, 4, 6, 6)])
    moved = paste(source, donor)
    assert boxes_of(moved) == [[2, 2, 8, 8], [4, 4, 6, 6]]
    assert [int(mask.sum()) for mask in moved.target.masks.dense()] == [32, 4]


def test_paste_of_nothing():
    moved = paste(example([(2, 2, 8, 8)]), example([]))
    assert boxes_of(moved) == [[2, 2, 8, 8]]
    assert boxes_of(paste(example([]), example([(2, 2, 8, 8)]))) == [[2, 2, 8, 8]]


# -- the target that is learned from


def test_objects_of_less_than_a_pixel_are_dropped_in_the_end():
    source = example([(2, 1, 5, 4), (7, 1, 9, 3), (10, 1, 13, 4), (15, 1, 16, 2)], keypoints=[[[3, 3, 2]]] * 4)
    source.target.boxes[1] = torch.tensor([7, 1, 7.9, 3])
    source.target.masks.crops[2][:] = False
    moved = clean_target(source)
    assert moved.labels.tolist() == [0, 3]
    assert (len(moved.masks), moved.masks.size) == (2, (10, 20))
    assert [bounds(mask) for mask in moved.masks.dense()] == moved.boxes.tolist() == [[2, 1, 5, 4], [15, 1, 16, 2]]
    assert len(moved.keypoints) == len(moved.areas) == 2


def test_boxes_are_clipped_in_the_end():
    source = example([(2, 1, 5, 4)])
    source.target.boxes = torch.tensor([[-1.0, 1, 21, 12]])
    assert clean_target(source).boxes.tolist() == [[0, 1, 20, 10]]


def test_every_move_of_no_objects():
    source = example([], keypoints=torch.zeros(0, 3, 3).tolist())
    source.target.keypoints = torch.zeros(0, 3, 3)
    moved = crop(rotate90(flip_horizontal(flip_vertical(source), KEYPOINTS), 1), 2, 1, 9, 6)
    target = clean_target(resize(moved, (18, 24), PREPROCESS))
    assert (target.boxes.shape, target.labels.shape, target.masks.dense().shape) == ((0, 4), (0,), (0, 18, 24))
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
    masks = read_example(sample([[2, 1, 5, 4]], (segment,)), 3, {"masks"}).target.masks
    (corner,), (mask,) = masks.corners, masks.crops
    assert (corner, mask.shape, bool(mask.all())) == ((2, 1), (3, 3), True)
    assert masks.size == (10, 20)
    assert bounds(masks[0]) == [2, 1, 5, 4]


def test_only_the_fields_that_are_needed_are_read():
    semantic = torch.zeros(10, 20, dtype=torch.int64)
    more = {"keypoints": torch.ones(1, 3, 3), "label": torch.tensor(2), "semantic": semantic}
    source = sample([[2, 1, 5, 4]], ("nonsense",), **more)
    target = read_example(source, 3, {"boxes"}).target
    assert (target.masks, target.keypoints, target.label, target.semantic) == (None, None, None, None)
    assert (target.boxes.tolist(), target.labels.tolist()) == ([[2, 1, 5, 4]], [0])
    assert target.size == (10, 20)
    target = read_example(source, 3, {"keypoints"}).target
    assert target.keypoints.shape == (1, 3, 3)
    assert (target.masks, len(target.boxes)) == (None, 1)
    target = read_example(source, 3, {"label"}).target
    assert (target.label, target.boxes, target.labels) == (2, None, None)
    assert read_example(source, 3, {"semantic"}).target.semantic is semantic
    assert source.target.size is None


def test_boxes_of_masks_alone():
    on = {"size": [10, 20], "counts": [21, 3, 7, 3, 7, 3, 156]}
    off = {"size": [10, 20], "counts": [200]}
    source = sample([], (off, on))
    source = replace(source, target=replace(source.target, boxes=None, labels=torch.tensor([0, 1])))
    for field in ("boxes", "masks"):
        target = read_example(source, 3, {field}).target
        assert (target.boxes.tolist(), target.labels.tolist(), target.areas.tolist()) == ([[2, 1, 5, 4]], [1], [9])


@pytest.mark.parametrize(
    "segment",
    [{"size": [9, 20], "counts": [180]}, {"size": [10, 20], "counts": "~"}, torch.zeros(3, 3).bool()],
    ids=str,
)
def test_a_mask_that_cannot_be_decoded(segment):
    with pytest.raises(UnreadableImage, match=r"^a\.png, object 1: a mask .*\.$"):
        read_example(sample([[2, 1, 5, 4]], (segment,)), 3, {"masks"})


def test_an_image_of_another_size_than_annotated():
    source = sample([[2, 1, 5, 4]], size=(20, 10))
    with pytest.raises(UnreadableImage, match=r"^a\.png: the image is 10 x 20 pixels, .* 20 x 10 .* EXIF"):
        read_example(source, 3, {"boxes"})
    read_example(source, 3, {"label"})  # for which the size does not matter


def test_an_image_without_objects():
    target = clean_target(read_example(sample([]), 3, {"masks"}))
    assert target.boxes.shape == (0, 4)
    assert target.masks.dense().shape == (0, 10, 20)
    assert target.masks.dense().dtype == torch.bool
