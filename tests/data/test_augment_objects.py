"""Augmentation of images with objects: every option alone, and what must hold for all together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vertebra.data.augment.objects import ObjectsAugment, ObjectsTransform, mosaic, random_crop
from vertebra.data.geometry import Example
from vertebra.errors import VertebraError
from vertebra.images import frame_of, prepare
from vertebra.structures import KeypointSchema, Masks, Preprocess, Target

OFF = {"scales": (0.0, 0.0), "flip": 0.0, "colour": 0.0}
SHORTEST = Preprocess(size=(48, 96), resize="shortest")
FIT = Preprocess(size=(64, 64), resize="fit")
SQUASH = Preprocess(size=(40, 56), resize="squash")
ALL = [
    {"scales": (0.5, 1.5)},
    {"jitter": (0.1, 3.0)},
    {"crop": 0.3},
    {"flip": 0.5},
    {"flip_vertical": 0.5},
    {"rotate90": 0.75},
    {"colour": 0.4},
    {"copy_paste": 1.0},
    {"mosaic": 1.0},
]


def example(seed: int = 0, size: tuple[int, int] = (40, 60), count: int = 6) -> Example:
    """Grey 200 objects on black that do not overlap: each is the whole of a cell of a grid, shifted and shrunk."""
    random = np.random.default_rng(seed)
    image, boxes, masks = torch.zeros(3, *size, dtype=torch.uint8), [], Masks(size)
    for place in random.permutation(8)[:count]:
        h, w = size[0] // 2, size[1] // 4
        y1, x1 = place // 4 * h + random.integers(0, h // 2), place % 4 * w + random.integers(0, w // 2)
        y2, x2 = y1 + random.integers(3, h // 2), x1 + random.integers(3, w // 2)
        boxes.append([x1, y1, x2, y2])
        masks.append(int(x1), int(y1), torch.ones(int(y2 - y1), int(x2 - x1), dtype=torch.bool))
        image[:, y1:y2, x1:x2] = 200
    boxes = torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32)
    corners = torch.stack([boxes[:, :2], boxes[:, 2:] - 1], 1)  # each object's first and last pixel
    target = Target(
        boxes=boxes,
        labels=torch.arange(count),
        masks=masks,
        crowd=torch.zeros(count, dtype=torch.bool),
        areas=torch.ones(count),
        keypoints=torch.cat([corners, torch.full((count, 2, 1), 2.0)], -1),
        size=size,
        id=seed,
        path=str(seed),
    )
    return Example(image, target)


def transformed(options: dict, preprocess: Preprocess, seed: int = 0, source: Example | None = None):
    drawn = iter(range(1, 9))
    torch.manual_seed(seed)
    keypoints = KeypointSchema(("first", "last"))
    transform = ObjectsTransform(ObjectsAugment(**{**OFF, **options}), preprocess, keypoints)
    return transform(source or example(), lambda: example(next(drawn), (30, 70)))


def bounds(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


@pytest.mark.parametrize("preprocess", [SHORTEST, FIT, SQUASH], ids=lambda p: p.resize)
def test_nothing_is_done_when_all_is_off(preprocess):
    source = example()
    image, target = transformed({}, preprocess)
    assert torch.equal(image, prepare(source.image, preprocess))
    height, width = frame_of((40, 60), preprocess).resized
    assert target.size == (height, width) == image.shape[-2:]
    factors = torch.tensor([width / 60, height / 40, width / 60, height / 40])
    assert torch.allclose(target.boxes, source.boxes * factors)
    assert (target.id, target.path) == (0, "0")


@pytest.mark.parametrize("preprocess", [SHORTEST, FIT, SQUASH], ids=lambda p: p.resize)
@pytest.mark.parametrize("options", [*ALL, {k: v for option in ALL for k, v in option.items()}], ids=str)
def test_boxes_masks_and_image_stay_together(options, preprocess):
    """Where a mask is, the image is bright, elsewhere dark, save at borders; boxes bound the masks to a pixel.

    Pasted and joined images are resized two or three times, and what was a pixel at first is more in the end.
    """
    slack = 1.01 + ("copy_paste" in options or "mosaic" in options) * (1 + options.get("jitter", (0, 0))[1])
    plain, differ = transformed({}, preprocess), 0
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    for seed in range(8):
        image, target = transformed(options, preprocess, seed)
        again, _ = transformed(options, preprocess, seed)
        assert torch.equal(image, again)  # torch's generator decides alone
        differ += image.shape != plain[0].shape or not torch.equal(image, plain[0])
        size = (image.shape[-2], image.shape[-1])
        assert target.size == size
        masks = target.masks.dense()
        assert masks.shape == (len(target.boxes), *size)
        assert masks.flatten(1).any(1).all()
        rows = (target.labels, target.crowd, target.areas)
        assert {len(row) for row in rows if row is not None} == {len(target.boxes)}
        assert (target.boxes[:, 2:] - target.boxes[:, :2] >= 1).all()
        assert (target.boxes >= 0).all()
        assert (target.boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()
        for mask, box in zip(masks, target.boxes.tolist(), strict=True):
            assert bounds(mask) == pytest.approx(box, abs=slack)
        level = (image * std + mean).mean(0)
        on, bright = masks.any(0), level > 0.4 * level.max()
        if "crop" not in options and "jitter" not in options and "mosaic" not in options:  # no object is dropped
            assert (on ^ bright).float().mean() < 0.06
        elif on.any():
            assert bright[on].float().mean() > 0.6
    assert differ > 0 or (
        preprocess.resize == "squash" and len(options) == 1 and options.keys() <= {"scales", "jitter"}
    )


@pytest.mark.parametrize("options", [{"flip": 1.0}, {"rotate90": 1.0}, {"crop": 0.5}, {"jitter": (0.3, 2.0)}], ids=str)
def test_keypoints_stay_on_their_objects(options):
    for seed in range(6):
        _, target = transformed(options, FIT, seed)
        for box, keypoints in zip(target.boxes.tolist(), target.keypoints.tolist(), strict=True):
            for x, y, visible in keypoints:
                inside = box[0] - 1 <= x <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1
                assert inside if visible else (x, y) == (0, 0)


def test_scales():
    sizes = set()
    for seed in range(20):
        image, target = transformed({"scales": (0.5, 1.5)}, SHORTEST, seed)
        sizes.add(min(target.size))
        assert target.size == image.shape[-2:]
        assert max(target.size) <= 96 * 1.5
    assert min(sizes) < 34
    assert max(sizes) > 62
    assert all(24 <= side <= 72 for side in sizes)
    _, target = transformed({"scales": (0.5, 0.5)}, SHORTEST)
    assert target.size == frame_of((40, 60), replace(SHORTEST, size=(24, 48))).resized
    assert transformed({"scales": (1.5, 1.5)}, FIT)[1].size == (42, 64)  # as in evaluation
    assert transformed({"scales": (0.5, 0.5)}, FIT)[1].size == (21, 32)
    assert transformed({"scales": (0.5, 0.5)}, SQUASH)[1].size == (40, 56)


def test_jitter_ends_within_the_size_of_evaluation():
    assert transformed({"jitter": (0.5, 0.5)}, SHORTEST)[1].size == (24, 36)
    assert transformed({"jitter": (2.0, 2.0)}, SHORTEST)[1].size == (48, 72)
    assert transformed({"jitter": (0.5, 0.5)}, FIT)[1].size == (21, 32)
    assert transformed({"jitter": (2.0, 2.0)}, FIT)[1].size == (64, 64)  # 84 x 128, cut
    _, target = transformed({"jitter": (2.0, 2.0)}, FIT)
    whole = transformed({}, FIT)[1]
    for label, box in zip(target.labels.tolist(), target.boxes, strict=True):
        if box[0] > 0 and box[1] > 0 and box[2] < 64 and box[3] < 64:  # not cut: twice as large
            sides = whole.boxes[label, 2:] - whole.boxes[label, :2]
            assert (box[2:] - box[:2]).tolist() == pytest.approx((2 * sides).tolist(), abs=0.5)


def test_a_crop_shows_an_object():
    for seed in range(30):
        _, target = transformed({"crop": 0.1}, FIT, seed, example(count=1))
        assert len(target.boxes) == 1


def test_crops_are_anywhere_in_an_image_without_objects():
    torch.manual_seed(0)
    source = example(count=0)
    source.image = torch.arange(60, dtype=torch.uint8).expand(3, 40, 60)
    assert {int(random_crop(source, 40, 58).image[0, 0, 0]) for _ in range(30)} == {0, 1, 2}


def test_mosaic_has_four_images():
    torch.manual_seed(0)
    four = [example(i, (30 + i, 60 - i)) for i in range(4)]
    for i, tile in enumerate(four):
        tile.image[:] = 50 * i + 50
        tile.target.labels[:] = i
    joined = mosaic(four, FIT)
    assert joined.size == (30, 60)
    assert sorted(set(joined.image.flatten().tolist())) == [50, 100, 150, 200]
    for label, (x1, y1, x2, y2) in zip(joined.target.labels.tolist(), joined.boxes.tolist(), strict=True):
        inside = joined.image[0, int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        assert (inside == 50 * label + 50).float().mean() > 0.7
    assert mosaic([example(i, (1, 1), 0) for i in range(4)], FIT).size == (1, 1)


def test_pasted_objects_hide_others():
    seen = 0
    for seed in range(20):
        _, target = transformed({"copy_paste": 1.0}, FIT, seed)
        assert int(target.masks.dense().sum(0).max()) == 1  # nothing lies on two objects
        seen += len(target.boxes) > 6
    assert seen > 10


def test_crowds_are_not_pasted():
    donor = example(1)
    donor.target.crowd[:] = True
    transform = ObjectsTransform(ObjectsAugment(**{**OFF, "copy_paste": 1.0}), FIT)
    for seed in range(4):
        torch.manual_seed(seed)
        _, target = transform(example(), lambda: donor)
        assert target.labels.tolist() == list(range(6))
        assert not target.crowd.any()


@pytest.mark.parametrize("options", [*ALL, {}], ids=str)
def test_images_without_objects(options):
    if "copy_paste" in options or "mosaic" in options:
        options = {**options, "crop": 0.5}
    _, target = transformed(options, FIT, 0, example(count=0))
    assert target.boxes.shape[1:] == (4,)
    assert target.masks.dense().dtype == torch.bool
    assert target.masks.dense().shape == (len(target.boxes), *target.size)


def test_two_thousand_objects():
    """As a dense stack at each step this would be gigabytes."""
    grid = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(50), indexing="xy"), -1).reshape(-1, 2) * 20
    boxes = torch.cat([grid + 2, grid + 12], 1).float()
    corners = [(x + 2, y + 2) for x, y in grid.tolist()]
    masks = Masks((1000, 800), corners, [torch.ones(10, 10, dtype=torch.bool)] * 2000)
    target = Target(boxes=boxes, labels=torch.zeros(2000).long(), masks=masks, areas=torch.full((2000,), 100.0))
    source = Example(torch.zeros(3, 1000, 800, dtype=torch.uint8), target)
    image, moved = transformed({"flip": 1.0, "rotate90": 1.0}, Preprocess(size=(200, 200), resize="fit"), 0, source)
    assert (len(moved.masks), moved.masks.size) == (2000, image.shape[-2:])
    bounded = [bounds(moved.masks[i]) for i in range(9)]
    assert bounded == [pytest.approx(box, abs=1) for box in moved.boxes[:9].tolist()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip": 1.5}, "augment.flip is 1.5; it must lie between 0 and 1."),
        ({"mosaic": -0.1}, "augment.mosaic is -0.1; it must lie between 0 and 1."),
        ({"colour": -1.0}, "augment.colour is -1; it must lie between 0 and 1."),
        ({"scales": (0.0, 1.0)}, r"augment.scales is \[0, 1\]; it must go from a number above 0"),
        ({"jitter": (2.0, 0.1)}, r"augment.jitter is \[2, 0.1\]; it must go from a number above 0"),
    ],
)
def test_values_that_make_no_sense(options, words):
    with pytest.raises(VertebraError, match=words):
        ObjectsAugment(**options)
