"""Every field of a Target moves as its image does: each is drawn as an image, which is moved pixel by pixel."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from vertebra.data.augment.objects import ObjectsAugment, ObjectsTransform, mosaic, random_crop
from vertebra.data.geometry import (
    IGNORED,
    Example,
    clean_target,
    crop,
    flip_horizontal,
    flip_vertical,
    join,
    paste,
    resize,
    rotate90,
)
from vertebra.structures import KeypointSchema, Masks, Preprocess, Target

SIZE = (24, 36)
NEAREST = Preprocess(interpolation="nearest-exact")  # images are resized as masks and label maps are
SCHEMA = KeypointSchema(("nose", "left", "right"), flip_indices=(0, 2, 1))
BOXES = [(2, 2, 10, 8), (14, 4, 22, 12), (24, 2, 34, 14), (4, 14, 16, 22)]
"""Even numbers, so that the boxes are whole pixels at half the size too."""


OF_SENTENCES = ("text", "references", "tokens", "alignment")
"""Fields of a target that images do not have."""


def full(first: int = 0, size: tuple[int, int] = SIZE) -> Example:
    """An image whose target has every field; `first` is the label of its first object, and they count up from there.

    Of every mask the top left corner is missing, so that its mirror images differ, and its area is half the box's.
    """
    random = np.random.default_rng(first)
    masks = Masks(size)
    for x1, y1, x2, y2 in BOXES:
        mask = torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)
        mask[:2, :2] = False
        masks.append(x1, y1, mask)
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    keypoints = torch.zeros(len(BOXES), 3, 3)
    for row, (x1, y1, x2, y2) in zip(keypoints, BOXES, strict=True):
        row[0] = torch.tensor([x1 + 1, y2 - 1, 2])
        row[1] = torch.tensor([x2 - 1, y1 + 1, 1])
    keypoints[0, 2] = torch.tensor([5.0, 5, 2])  # the others do not have it
    target = Target(
        label=torch.tensor(first),
        tags=torch.tensor([first, first + 1]),
        boxes=boxes,
        labels=torch.arange(first, first + len(BOXES)),
        masks=masks,
        keypoints=keypoints,
        crowd=torch.tensor([False, False, True, False]),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1) / 2,
        semantic=torch.from_numpy(random.integers(0, 200, size)),
        size=size,
        id=first,
        path=f"{first}.png",
    )
    assert all(getattr(target, field.name) is not None for field in fields(Target) if field.name not in OF_SENTENCES)
    return Example(torch.from_numpy(random.integers(0, 256, (3, *size), np.uint8)), target)


@dataclass
class Drawn:
    """The fields of a target as images of its size."""

    image: np.ndarray
    semantic: np.ndarray
    masks: dict[int, np.ndarray]
    """By label."""
    centres: dict[int, np.ndarray]
    """The pixel in the middle of each box."""
    keypoints: dict[int, list[np.ndarray]]
    """A pixel for each keypoint; none for an absent one."""


def draw(example: Example) -> Drawn:
    target, blank = example.target, np.zeros(example.size, bool)
    masks, centres, keypoints = {}, {}, {}
    for label, mask, box, positions in zip(
        target.labels.tolist(), target.masks.dense(), target.boxes.tolist(), target.keypoints.tolist(), strict=True
    ):
        masks[label] = mask.numpy()
        centres[label] = blank.copy()
        centres[label][int(box[1] + box[3]) // 2, int(box[0] + box[2]) // 2] = True
        keypoints[label] = [blank.copy() for _ in positions]
        for plane, (x, y, visible) in zip(keypoints[label], positions, strict=True):
            plane[int(y), int(x)] = visible > 0
    return Drawn(example.image.numpy(), target.semantic.numpy(), masks, centres, keypoints)


Move = Callable[[np.ndarray, int], np.ndarray]
"""An image [..., H, W], and what lies beyond its border, to the moved image."""


def moved_images(drawn: Drawn, move: Move) -> Drawn:
    return Drawn(
        move(drawn.image, 0),
        move(drawn.semantic, IGNORED),
        {label: move(mask, 0) for label, mask in drawn.masks.items()},
        {label: move(centre, 0) for label, centre in drawn.centres.items()},
        {label: [move(plane, 0) for plane in planes] for label, planes in drawn.keypoints.items()},
    )


def check(result: Example, drawn: Drawn, sources: dict[int, Target], *, scale: float = 1.0, swap: bool = False) -> None:
    """Compares every field of the result with the images of the fields.

    Args:
        sources: the target that each label comes from.
        scale: by which areas grow.
        swap: whether left and right keypoints are swapped.
    """
    target = result.target
    assert np.array_equal(result.image.numpy(), drawn.image)
    assert target.size == target.masks.size == result.size == drawn.semantic.shape
    assert np.array_equal(target.semantic.numpy(), drawn.semantic)
    labels = target.labels.tolist()
    assert (
        len({len(getattr(target, name)) for name in ("boxes", "labels", "masks", "keypoints", "crowd", "areas")}) == 1
    )
    for i, label in enumerate(labels):
        source = sources[label]
        before = source.labels.tolist().index(label)
        assert np.array_equal(target.masks[i].numpy(), drawn.masks[label])
        (top, *_, bottom), (left, *_, right) = (np.flatnonzero(drawn.masks[label].any(axis)) for axis in (1, 0))
        assert target.boxes[i].tolist() == [left, top, right + 1, bottom + 1]
        area = (right + 1 - left) * (bottom + 1 - top)
        assert float(target.areas[i]) == pytest.approx(area / 2)
        assert target.crowd[i] == source.crowd[before]
        order = SCHEMA.flip_indices if swap else range(3)
        for (x, y, visible), k in zip(target.keypoints[i].tolist(), order, strict=True):
            assert visible == (source.keypoints[before, k, 2] if drawn.keypoints[label][k].any() else 0)
            assert drawn.keypoints[label][k][int(y), int(x)] if visible else (x, y) == (0, 0)
    first = next(iter(sources.values()))
    assert (target.label, target.id, target.path) == (first.label, first.id, first.path)
    assert torch.equal(target.tags, first.tags)


def window(top: int, left: int, height: int, width: int) -> tuple[Callable[[Example], Example], Move]:
    def move(image: np.ndarray, fill: int) -> np.ndarray:
        room = [(0, 0)] * (image.ndim - 2) + [(50, 50)] * 2
        padded = np.pad(image, room, constant_values=fill)
        return padded[..., 50 + top : 50 + top + height, 50 + left : 50 + left + width]

    return (lambda example: crop(example, top, left, height, width)), move


CROPS = {
    "crop inside": window(3, 5, 16, 22),
    "crop in the middle": window(6, 12, 8, 11),
    "crop of the size": window(0, 0, *SIZE),
    "crop beyond two borders": window(-4, -6, 22, 20),
    "crop beyond the others": window(5, 9, 30, 40),
    "crop beyond all": window(-3, -5, 40, 50),
    "crop outside": window(30, 40, 5, 6),
}
WHOLE = {
    "flip_horizontal": (lambda e: flip_horizontal(e, SCHEMA), lambda image, fill: image[..., ::-1]),
    "flip_vertical": (lambda e: flip_vertical(e, SCHEMA), lambda image, fill: image[..., ::-1, :]),
    "rotate90": (lambda e: rotate90(e, 1), lambda image, fill: np.rot90(image, 1, (-2, -1))),
    "rotate180": (lambda e: rotate90(e, 2), lambda image, fill: np.rot90(image, 2, (-2, -1))),
    "rotate270": (lambda e: rotate90(e, 3), lambda image, fill: np.rot90(image, 3, (-2, -1))),
    "resize to more": (
        lambda e: resize(e, (72, 72), NEAREST),
        lambda image, fill: image.repeat(3, -2).repeat(2, -1),
    ),
    "resize to less": (lambda e: resize(e, (12, 18), NEAREST), lambda image, fill: image[..., 1::2, 1::2]),
    "clean": (lambda e: Example(e.image, clean_target(e)), lambda image, fill: image),
}


@pytest.mark.parametrize("name", [*CROPS, *WHOLE])
def test_every_field_moves_as_its_image(name):
    source = full()
    function, move = {**CROPS, **WHOLE}[name]
    drawn = moved_images(draw(source), move)
    result = function(source)
    check(result, drawn, dict.fromkeys(range(4), source.target), swap=name.startswith("flip"))
    labels = result.target.labels.tolist()
    if name in WHOLE:
        assert labels == [0, 1, 2, 3]
    else:  # where the centre is to be seen, or anything of a crowd
        assert labels == [i for i in range(4) if drawn.centres[i].any() or (i == 2 and drawn.masks[i].any())]
    assert np.array_equal(full().image, source.image)  # the source is as it was
    check(source, draw(full()), dict.fromkeys(range(4), full().target))


def test_every_field_of_joined_images():
    """Four tiles of one canvas, each at its corner; the first two are parts of images."""
    tiles = [(0, 0, 10, 20), (0, 20, 10, 30), (10, 0, 24, 20), (10, 20, 24, 30)]
    canvas = (34, 50)
    parts, drawn, sources = [], [], {}
    for i, (top, left, height, width) in enumerate(tiles):
        function, move = window(1, 2, height, width)
        source = full(4 * i)
        sources.update(dict.fromkeys(range(4 * i, 4 * i + 4), source.target))
        part = function(source)
        parts.append((top, left, part))
        drawn.append(moved_images(moved_images(draw(source), move), window(-top, -left, *canvas)[1]))
    semantic = np.full(canvas, IGNORED)
    for tile in drawn:
        semantic = np.where(tile.semantic == IGNORED, semantic, tile.semantic)
    joined = Drawn(
        sum(tile.image for tile in drawn),
        semantic,
        {label: mask for tile in drawn for label, mask in tile.masks.items()},
        {},
        {label: planes for tile in drawn for label, planes in tile.keypoints.items()},
    )
    result = join(parts, canvas)
    check(result, joined, sources)
    kept = []
    for tile in drawn:
        kept += [i for i in tile.masks if tile.centres[i].any() or (i % 4 == 2 and tile.masks[i].any())]
    assert result.target.labels.tolist() == kept
    assert len(kept) > 8


@pytest.mark.parametrize(
    ("shift", "chosen", "kept"),
    [((2, -10), (10, 11), [0, 1, 2, 3]), ((0, 0), (10, 13), [1, 2]), ((-4, -8), (11,), [0, 1, 2, 3])],
)
def test_every_field_of_pasted_images(shift, chosen, kept):
    """The donor's objects are moved so that they hide parts of objects, or the whole of some."""
    source = full()
    function, move = window(*shift, *SIZE)
    donor = function(full(10))
    donor = donor.take(torch.isin(donor.target.labels, torch.tensor(chosen)))
    above, below = moved_images(draw(full(10)), move), draw(source)
    over = np.logical_or.reduce([above.masks[label] for label in chosen])
    drawn = Drawn(
        np.where(over, above.image, below.image),
        np.where(over, above.semantic, below.semantic),
        {label: mask & ~over for label, mask in below.masks.items()} | above.masks,
        {},
        below.keypoints | above.keypoints,
    )
    result = paste(source, donor)
    check(result, drawn, dict.fromkeys(range(4), source.target) | dict.fromkeys(range(10, 14), full(10).target))
    assert result.target.labels.tolist() == [*kept, *chosen]
    assert any((drawn.masks[i] != below.masks[i]).any() for i in range(4))


# -- the random pipelines


OFF = {"scales": (0.0, 0.0), "flip": 0.0, "colour": 0.0}
PIPELINES = {
    "scales": {"scales": (0.5, 1.5)},
    "jitter": {"jitter": (0.4, 2.0)},
    "crop": {"crop": 0.4},
    "flip": {"flip": 1.0},
    "flip_vertical": {"flip_vertical": 1.0},
    "rotate90": {"rotate90": 1.0},
    "copy_paste": {"copy_paste": 1.0, "flip": 0.5},
    "mosaic": {"mosaic": 1.0},
    "all": {
        "jitter": (0.5, 2.0),
        "crop": 0.6,
        "flip": 0.5,
        "flip_vertical": 0.5,
        "rotate90": 0.5,
        "copy_paste": 0.7,
        "mosaic": 0.5,
    },
}
COUNT = 4 * 6  # labels of as many examples as a pipeline draws
CHANNELS = 1 + COUNT * 4


def layered(first: int) -> Example:
    """An example in whose image each field is a channel: the label map, then masks and keypoints by label."""
    example = full(first)
    planes = np.zeros((CHANNELS, *SIZE), np.uint8)
    planes[0] = example.target.semantic.numpy() + 1
    drawn = draw(example)
    for label, mask in drawn.masks.items():
        planes[1 + label] = mask
        for k, plane in enumerate(drawn.keypoints[label]):
            y, x = np.argwhere(plane)[0] if plane.any() else (-9, -9)
            planes[1 + COUNT + 3 * label + k, max(0, y - 2) : max(0, y + 3), max(0, x - 2) : max(0, x + 3)] = 1
    return Example(torch.from_numpy(planes), example.target)


@pytest.mark.parametrize("resize", [("shortest", (40, 80)), ("fit", (48, 48)), ("squash", (30, 50))], ids=str)
@pytest.mark.parametrize("name", PIPELINES)
def test_every_field_moves_with_the_image_in_random_pipelines(name, resize):
    mode, size = resize
    preprocess = replace(NEAREST, resize=mode, size=size, mean=(0.0,) * CHANNELS, std=(1.0,) * CHANNELS)
    transform = ObjectsTransform(ObjectsAugment(**{**OFF, **PIPELINES[name]}), preprocess, SCHEMA)
    seen = 0
    mirrored = {"flip", "flip_vertical"} & {name}
    for seed in range(4):
        torch.manual_seed(seed)
        firsts = iter(range(4, COUNT, 4))
        image, target = transform(layered(0), lambda firsts=firsts: layered(next(firsts)))
        planes = (image * 255).round().long()
        assert target.size == target.masks.size == image.shape[-2:]
        assert torch.equal(target.semantic, torch.where(planes[0] > 0, planes[0] - 1, IGNORED))
        for i, label in enumerate(target.labels.tolist()):
            mask = planes[1 + label].bool()
            assert torch.equal(target.masks[i], mask)
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            bounds = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            slack = 3.0 if name in ("mosaic", "copy_paste", "all") else 1.0  # which resize more than once
            assert (target.boxes[i] - bounds).abs().max() <= slack
            sides = bounds[2:] - bounds[:2]
            area = float(target.areas[i] * 2 / (target.boxes[i, 2:] - target.boxes[i, :2]).prod())
            assert area == pytest.approx(1, abs=0.02) or int(sides.min()) < 5
            assert bool(target.crowd[i]) == (label % 4 == 2)
            for k, (x, y, visible) in enumerate(target.keypoints[i].tolist()):
                if not visible:
                    assert (x, y) == (0, 0)
                    continue
                drawn = planes[1 + COUNT + 3 * label + (SCHEMA.flip_indices[k] if mirrored else k)]
                near = drawn[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2]
                # Else a pasted object can lie on it, or the sides are swapped in some.
                assert bool(near.any()) or name in ("copy_paste", "all")
            seen += 1
        assert (int(target.label), target.id, target.path) == (0, 0, "0.png")
    assert seen > 8


# -- targets that have some of the fields


SUBSETS = [{"label"}, {"semantic"}, {"label", "semantic"}, {"masks", "labels"}, {"keypoints"}, {"boxes", "labels"}]
FIELDS = ("label", "boxes", "labels", "masks", "keypoints", "crowd", "areas", "semantic")


def only(example: Example, names: set[str]) -> Example:
    return Example(example.image, replace(example.target, **dict.fromkeys(set(FIELDS) - names)))


def same(a: object, b: object) -> bool:
    if isinstance(a, Masks) and isinstance(b, Masks):
        return torch.equal(a.dense(), b.dense())
    return a is None and b is None if a is None or b is None else torch.equal(a, b)


@pytest.mark.parametrize("names", SUBSETS, ids=lambda names: "+".join(sorted(names)))
@pytest.mark.parametrize("name", [*CROPS, *WHOLE, "join", "mosaic", "random_crop"])
def test_targets_with_some_of_the_fields(names, name):
    """What a target has moves as in a full one, and what it has not stays None."""
    functions = {
        **{key: function for key, (function, _) in {**CROPS, **WHOLE}.items()},
        "join": lambda e: join([(0, 0, crop(e, 0, 0, 24, 20)), (0, 20, crop(e, 0, 0, 24, 30))], (24, 50)),
        "mosaic": lambda e: mosaic([e] * 4, NEAREST),
        "random_crop": lambda e: random_crop(e, 20, 30),
    }
    if name in ("mosaic", "random_crop") and not names & {"boxes", "masks"}:
        reference = only(full(), {"label", "semantic"})  # parts are then chosen without regard to objects
    else:
        reference = only(full(), {*FIELDS} - {"crowd"})  # of which partial targets know nothing
    torch.manual_seed(0)
    expected = functions[name](reference)
    torch.manual_seed(0)
    result = functions[name](only(full(), names))
    assert torch.equal(result.image, expected.image)
    assert result.target.size == result.size
    present = {field for field in FIELDS if getattr(result.target, field) is not None}
    assert present - {"crowd"} == names
    if "boxes" in names and name not in WHOLE:
        return  # without masks, boxes are clipped
    for field in names - {"keypoints"}:
        assert same(getattr(result.target, field), getattr(expected.target, field))


@pytest.mark.parametrize("names", SUBSETS, ids=lambda names: "+".join(sorted(names)))
def test_pipelines_of_targets_with_some_of_the_fields(names):
    preprocess = replace(NEAREST, resize="fit", size=(48, 48))
    transform = ObjectsTransform(ObjectsAugment(**{**PIPELINES["all"], "copy_paste": 1.0}), preprocess, SCHEMA)
    for seed in range(4):
        torch.manual_seed(seed)
        image, target = transform(only(full(), names), lambda: only(full(4), names))
        present = {field for field in FIELDS if getattr(target, field) is not None}
        assert present - {"crowd"} == names
        assert target.size == image.shape[-2:]
        assert target.semantic is None or target.semantic.shape == image.shape[-2:]


def test_label_maps_of_some_images_only():
    """Where an image of several has no label map, its pixels are ignored."""
    without = only(full(), set(FIELDS) - {"semantic"})
    left, right = crop(full(), 0, 0, 24, 20), crop(without, 0, 0, 24, 30)
    joined = join([(0, 0, left), (0, 20, right)], (24, 50)).target.semantic
    assert torch.equal(joined[:, :20], left.target.semantic)
    assert (joined[:, 20:] == IGNORED).all()
    assert join([(0, 0, right), (0, 30, left)], (24, 50)).target.semantic is None
    pasted = paste(full(), without).target
    over = full().target.masks.dense().any(0)
    assert torch.equal(pasted.semantic, torch.where(over, IGNORED, full().target.semantic))
    assert paste(without, full()).target.semantic is None
