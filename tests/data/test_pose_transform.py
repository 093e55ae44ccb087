"""Objects that are cut out by their boxes and augmented: keypoints move as the pixels do."""

import numpy as np
import pytest
import torch

from vertebra.data.augment.pose import PoseAugment, PoseTransform
from vertebra.data.geometry import Example, alone, in_region
from vertebra.errors import VertebraError
from vertebra.images import prepare
from vertebra.kinds.pose import KIND
from vertebra.structures import COCO_PERSON, KeypointSchema, Preprocess, Region, Target

OFF = {"scale": 0.0, "rotate": 0.0, "flip": 0.0, "half_body": 0.0}
PLAIN = Preprocess((64, 48), resize="box", mean=(0.0,) * 3, std=(1.0,) * 3)
UDP = Preprocess((64, 48), resize="box", udp=True, mean=(0.0,) * 3, std=(1.0,) * 3)
SCHEMA = KeypointSchema(("left", "right", "middle"), flip_indices=(1, 0, 2))
DOTS = ((38, 45), (70, 52), (51, 80))
"""x, y of the white dots, one in each channel: the keypoints."""
BOX = (25.0, 20.0, 85.0, 100.0)


def example(index=0):
    """Dots on black, three pixels wide; another object, of other keypoints, comes first or last."""
    y, x = torch.meshgrid(torch.arange(120), torch.arange(110), indexing="ij")
    dots = [255 * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18) for cx, cy in DOTS]
    keypoints = torch.tensor([[[float(cx), float(cy), 2.0] for cx, cy in DOTS]])
    other = torch.tensor([[[1.0, 1.0, 2.0]] * 3])
    boxes = torch.tensor([BOX, (0.0, 0.0, 5.0, 5.0)])
    order = [0, 1] if index == 0 else [1, 0]
    target = Target(
        boxes=boxes[order],
        labels=torch.tensor([4, 0])[order],
        keypoints=torch.cat((keypoints, other))[order],
        size=(120, 110),
        id=3,
        path="photo.png",
    )
    return Example(torch.stack(dots).round().to(torch.uint8), target, Region(BOX, 1.0, 4, index))


def augmented(seed, preprocess=PLAIN, schema=SCHEMA, index=0, **options):
    torch.manual_seed(seed)
    transform = PoseTransform(PoseAugment(**{**OFF, **options}), preprocess, schema)
    return transform(example(index), lambda: pytest.fail("one example is enough"))


def dots_of(image):
    """Centre x, y of the dot in each channel; None where it is not all in the image."""
    centres = []
    for channel in image - image.amin((1, 2), keepdim=True):
        weights = channel * (channel > 0.5 * channel.max())
        rows, columns = torch.nonzero(weights, as_tuple=True)
        inside = len(rows) and rows.min() > 1 and columns.min() > 1 and rows.max() < 62 and columns.max() < 46
        total = weights.sum()
        x = float((weights.sum(0) * torch.arange(48)).sum() / total)
        y = float((weights.sum(1) * torch.arange(64)).sum() / total)
        centres.append((x, y) if inside and channel.max() > 0.3 else None)
    return centres


def distance(point, centre):
    return float(np.hypot(float(point[0]) - centre[0], float(point[1]) - centre[1]))


OPTIONS = {
    "nothing": {},
    "scale": {"scale": 0.5},
    "rotate": {"rotate": 60.0, "rotate_probability": 1.0},
    "shift": {"shift": 0.3},
    "colour": {"colour": 0.4},
    "flip": {"flip": 1.0},
    "all": {"scale": 0.35, "rotate": 40.0, "rotate_probability": 0.6, "flip": 1.0, "shift": 0.1, "colour": 0.2},
}


@pytest.mark.parametrize("preprocess", [PLAIN, UDP], ids=["plain", "udp"])
@pytest.mark.parametrize("name", OPTIONS)
def test_keypoints_move_as_the_pixels_do(name, preprocess):
    seen, places = 0, set()
    for seed in range(8):
        image, target = augmented(seed, preprocess, **OPTIONS[name])
        assert image.shape == (3, 64, 48)
        order = SCHEMA.flip_indices if "flip" in OPTIONS[name] else (0, 1, 2)
        centres = dots_of(image)
        for k, channel in enumerate(order):
            if centres[channel] is not None:
                assert distance(target.keypoints[0, k], centres[channel]) < 0.35, (seed, k)
                seen += 1
        places.add(tuple(target.keypoints[0].flatten().tolist()))
        assert target.keypoints[0, :, 2].tolist() == [2, 2, 2]
    assert seen > 10
    assert (len(places) == 1) == (name in ("nothing", "colour", "flip"))  # all others are random


def test_a_flip_happens_as_often_as_it_is_asked_for():
    flipped = []
    for seed in range(40):
        image, target = augmented(seed, flip=0.5)
        left, right, _ = dots_of(image)
        flipped.append(distance(target.keypoints[0, 0], left) > distance(target.keypoints[0, 0], right))
        assert target.keypoints[0, 0, 0] < target.keypoints[0, 1, 0]  # what is on the left is called left
    assert 10 < sum(flipped) < 30


def test_a_flip_swaps_no_keypoints_that_have_no_mirror_image():
    image, target = augmented(0, schema=KeypointSchema(SCHEMA.names), flip=1.0)
    for k, centre in enumerate(dots_of(image)):
        assert distance(target.keypoints[0, k], centre) < 0.35


def test_colour_changes_pixels_alone():
    (plain, before), (changed, after) = augmented(1), augmented(1, colour=0.5)
    assert not torch.equal(plain, changed)
    assert torch.equal(before.keypoints, after.keypoints)
    assert (float(changed.min()), float(changed.max()) <= 1) == (0, True)


def test_limits_of_the_random_numbers():
    """The part that is shown changes by at most `scale`; it is rotated by at most twice `rotate`."""
    sides, angles = [], []
    for seed in range(60):
        points = augmented(seed, scale=0.2)[1].keypoints[0]
        sides.append(float((points[1, :2] - points[0, :2]).norm()))
        points = augmented(seed, rotate=10.0, rotate_probability=1.0)[1].keypoints[0]
        angles.append(float(torch.atan2(*(points[1, :2] - points[0, :2]).flip(0)).rad2deg()))
    usual = augmented(0)[1].keypoints[0]
    side = float((usual[1, :2] - usual[0, :2]).norm())
    angle = float(torch.atan2(*(usual[1, :2] - usual[0, :2]).flip(0)).rad2deg())
    assert side / 1.2 - 1e-3 < min(sides) < side / 1.15
    assert side / 0.85 < max(sides) < side / 0.8 + 1e-3
    assert -20.01 < min(angles) - angle < -15
    assert 15 < max(angles) - angle < 20.01
    unturned = [augmented(seed, rotate=10.0, rotate_probability=0.5)[1].keypoints[0, 1, 1] for seed in range(30)]
    assert 5 < sum(bool(y == usual[1, 1]) for y in unturned) < 25


@pytest.mark.parametrize("index", [0, 1])
def test_the_object_of_the_region_alone(index):
    image, target = augmented(0, index=index)
    assert torch.equal(image, augmented(0)[0])
    assert target.keypoints.shape == (1, 3, 3)
    assert (target.labels.tolist(), target.id, target.path, target.size) == ([4], 3, "photo.png", (64, 48))
    assert target.boxes.tolist() == [[0, 0, 48, 64]]
    single = alone(example(index))
    assert single.region.index == 0
    assert single.boxes.tolist() == [list(BOX)]


def test_keypoints_that_are_not_labelled_stay_so():
    changed = example()
    changed.target.keypoints[0, 1] = torch.tensor([9.0, 9.0, 0.0])
    _, target = PoseTransform(PoseAugment(scale=0, rotate=0, flip=1.0), PLAIN, SCHEMA)(changed, None)
    assert target.keypoints[0, 0].tolist() == [0, 0, 0]  # the mirror image of it
    assert target.keypoints[0, 1, 2] == 2


@pytest.mark.parametrize("preprocess", [PLAIN, UDP, Preprocess((64, 48), resize="box", margin=0.7)])
@pytest.mark.parametrize("box", [BOX, (-30.5, 60.25, 20.0, 200.0), (7.0, 9.0, 7.5, 9.25)])
def test_without_augmentation_it_is_the_crop_of_evaluation(preprocess, box):
    random = torch.randint(0, 256, (3, 120, 110), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    region = Region(box, 1.0, 0, 0)
    state = torch.get_rng_state()
    image, _ = KIND.transform(KIND.no_augment, preprocess, SCHEMA)(Example(random, example().target, region), None)
    assert torch.equal(image, prepare(random, preprocess, region))
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_repeat():
    options = {**OPTIONS["all"], "flip": 0.5}
    (first, a), (again, b), (other, c) = (augmented(seed, **options) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert torch.equal(a.keypoints, b.keypoints)
    assert not torch.equal(first, other)
    assert not torch.equal(a.keypoints, c.keypoints)


# -- half a body

UPPER, LOWER = slice(0, 11), slice(11, 17)


def body(labelled=range(17)):
    """COCO's keypoints: head and arms above row 60, legs below row 100."""
    random = np.random.default_rng(1)
    keypoints = torch.zeros(1, 17, 3)
    for k in labelled:
        keypoints[0, k] = torch.tensor(
            [random.uniform(40, 80), random.uniform(*((20, 60) if k < 11 else (100, 180))), 2]
        )
    box = (30.0, 10.0, 90.0, 190.0)
    target = Target(boxes=torch.tensor([box]), labels=torch.tensor([0]), keypoints=keypoints, size=(200, 120))
    return Example(torch.zeros(3, 200, 120, dtype=torch.uint8), target, Region(box, 1.0, 0, 0))


def halves_shown(labelled=range(17), *, schema=COCO_PERSON, **options):
    """Of 12 seeds, which part the crop shows: its centre is the mean of what is shown."""
    shown = set()
    augment = PoseAugment(**{**OFF, "half_body": 1.0, **options})
    example = body(labelled)
    present = example.target.keypoints[0, :, 2] > 0
    for seed in range(12):
        torch.manual_seed(seed)
        _, target = PoseTransform(augment, PLAIN, schema)(example, None)
        points = target.keypoints[0, :, :2]
        name = "whole"
        for half, part in (("upper", UPPER), ("lower", LOWER)):
            chosen = points[part][present[part]]
            if len(chosen) and torch.allclose(chosen.mean(0), torch.tensor([24.0, 32.0]), atol=1e-3):
                name = half
                assert bool(((chosen >= 0) & (chosen < torch.tensor([48.0, 64.0]))).all())  # all of the half
        shown.add(name)
    return shown


def test_half_a_body():
    assert halves_shown() == {"upper", "lower"}
    assert halves_shown(half_body=0.0) == {"whole"}
    assert halves_shown(half_body=0.5) == {"upper", "lower", "whole"}


def test_few_keypoints_show_the_whole_body():
    assert halves_shown(range(4, 12)) == {"whole"}  # 8 of them
    assert halves_shown(range(4, 12), half_body_keypoints=7) == {"upper"}  # the lower half has but one
    assert halves_shown(range(3, 13)) == {"upper"}  # and here two
    assert halves_shown(range(8, 17), half_body_keypoints=8) == {"upper", "lower"}


def test_keypoints_of_other_names_have_no_halves():
    assert halves_shown(schema=KeypointSchema(tuple(str(i) for i in range(17)))) == {"whole"}


def test_the_scale_of_half_a_body():
    """1.5 of the sides of the rectangle around its keypoints, extended to 3 : 4."""
    example = body()
    for seed in range(10):
        torch.manual_seed(seed)
        _, target = PoseTransform(PoseAugment(**{**OFF, "half_body": 1.0}), PLAIN, COCO_PERSON)(example, None)
        points = target.keypoints[0, :, :2]
        part = UPPER if torch.allclose(points[UPPER].mean(0), torch.tensor([24.0, 32.0]), atol=1e-3) else LOWER
        sides = points[part].amax(0) - points[part].amin(0)
        assert float((sides * 1.5 / torch.tensor([48.0, 64.0])).max()) == pytest.approx(1, abs=1e-3)


# -- others


def test_an_object_that_a_transform_removes_stays():
    before = alone(example())
    removed = before.take(torch.zeros(1, dtype=torch.bool))
    assert in_region(removed, before) is before
    shifted = Example(before.image, before.target, before.region)
    shifted.target.boxes = shifted.target.boxes + 2
    assert in_region(shifted, before).region.box == tuple(x + 2 for x in BOX)


@pytest.mark.parametrize(
    ("option", "value"),
    [("scale", 1.5), ("rotate", 181.0), ("flip", -0.1), ("half_body", 2.0), ("shift", 1.1), ("colour", -1.0)],
)
def test_limits_of_options(option, value):
    with pytest.raises(VertebraError, match=f"augment.{option}"):
        PoseAugment(**{option: value})
