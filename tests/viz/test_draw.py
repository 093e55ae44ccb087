"""Predictions drawn onto images, and captions beneath them."""

import numpy as np
import pytest
import torch

from vertebra.structures import KeypointSchema, Masks, Prediction
from vertebra.viz import draw

LINES = [("cat  75.0%", 0.75), ("dog  25.0%", 0.25), ("emu  0.0%", 0.0)]
CLASSES = ("cat", "dog", "emu")


def image(channels: int = 3, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_is_enlarged_without_smoothing(channels):
    source = image(channels)
    drawn = np.asarray(draw.captioned(source, LINES))
    assert drawn.shape[1] == 270  # nine times, the least that reaches 256
    expected = source.expand(3, -1, -1).permute(1, 2, 0).repeat_interleave(9, 0).repeat_interleave(9, 1)
    assert np.array_equal(drawn[:180], expected)


def test_the_caption_has_a_row_per_line():
    heights = [draw.captioned(image(), LINES[:count]).height for count in (0, 1, 2, 3)]
    steps = np.diff(heights)
    assert (steps == steps[0]).all()
    assert steps[0] > 0


def test_bars_are_as_long_as_their_share():
    drawn = np.asarray(draw.captioned(image(height=30), [("", share) for _, share in LINES]))[270:]
    bar = (drawn == (0xCF, 0xE3, 0xF7)).all(-1)  # [H, W]
    lengths = sorted({int(row.sum()) for row in bar if row.any()})
    assert lengths[-1] == pytest.approx(0.75 * 270, abs=2)
    assert any(length == pytest.approx(0.25 * 270, abs=2) for length in lengths)


def test_a_large_image_keeps_its_size():
    assert draw.captioned(image(height=10, width=300), LINES).width == 300


@pytest.mark.parametrize(("height", "width", "size"), [(100, 200, (112, 56)), (8, 4, (56, 112)), (1, 500, (112, 1))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_thumbnail(height, width, size, channels):
    made = draw.thumbnail(image(channels, height, width))
    assert made.size == size
    assert made.mode == "RGB"


# -- objects

GROUND = 30


def detections(*boxes, scores=None, labels=None, masks=None, keypoints=None):
    count = len(boxes)
    return Prediction(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=None if scores is None else torch.tensor(scores),
        labels=torch.tensor(labels if labels is not None else [0] * count, dtype=torch.int64),
        masks=masks,
        keypoints=keypoints,
    )


def drawn(prediction, classes=CLASSES, size=(300, 400), **more):
    return np.asarray(draw.instances(torch.full((3, *size), GROUND, dtype=torch.uint8), prediction, classes, **more))


def of(pixels, index):
    """Where the image has the colour of a class."""
    return (pixels == draw.colour(index)).all(-1)


def test_a_box_is_drawn_inside_its_pixels():
    pixels = drawn(detections((100, 50, 200, 150)), ("",))
    rows, columns = np.nonzero(of(pixels, 0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 149, 100, 199)
    assert (pixels[60:140, 110:190] == GROUND).all()


def test_a_mask_is_translucent_with_a_rim():
    crop = torch.zeros(40, 60, dtype=torch.bool)
    crop[5:35, 5:55] = True
    pixels = drawn(detections((105, 55, 155, 85), masks=Masks((300, 400), [(100, 50)], [crop])), ("",))
    assert tuple(pixels[70, 130]) == tuple(int(GROUND * 0.6 + part * 0.4) for part in draw.colour(0))
    assert tuple(pixels[55, 130]) == draw.colour(0)
    assert tuple(pixels[52, 130]) == (GROUND,) * 3  # in the crop, but not in the mask


def test_a_class_has_its_colour_in_every_image():
    first = drawn(detections((10, 50, 60, 90), (200, 50, 260, 90), labels=[2, 0]), ("", "", ""))
    second = drawn(detections((10, 50, 60, 90), labels=[2]), ("", "", ""))
    assert np.array_equal(first[:, :100], second[:, :100])
    assert of(first, 0).any()
    assert not of(first, 1).any()


def test_colours_are_told_apart():
    colours = np.array([draw.colour(i) for i in range(12)], dtype=float)
    distances = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1000 * np.eye(12)
    assert distances.min() > 40
    assert len({draw.colour(i) for i in range(80)}) == 80


def test_one_class_has_a_colour_per_object():
    pixels = drawn(detections((10, 50, 60, 90), (200, 50, 260, 90)), ("cell",))
    assert of(pixels, 0)[:, :100].any()
    assert of(pixels, 1)[:, 150:].any()


@pytest.mark.parametrize("box", [(0, 0, 20, 10), (380, 0, 400, 10), (390, 290, 400, 300), (0, 0, 400, 300)])
def test_labels_stay_in_the_image(box):
    plain = drawn(detections(box, labels=[1]), ("a", "", "c"))
    labelled = drawn(detections(box, labels=[1]), ("a", "a class with a name", "c"))
    where = np.argwhere((plain != labelled).any(-1))
    assert len(where)  # it is there, and whole: a label has the same number of pixels wherever it stands
    extent = where.max(0) - where.min(0) + 1
    free = drawn(detections((100, 100, 120, 110), labels=[1]), ("a", "", "c"))
    label = np.argwhere(
        (free != drawn(detections((100, 100, 120, 110), labels=[1]), ("a", "a class with a name", "c"))).any(-1)
    )
    assert (np.abs(extent - (label.max(0) - label.min(0) + 1)) <= 2).all()


def test_labels_do_not_cover_each_other():
    boxes = [(100, 100, 140, 140)] * 5
    labels = [0, 1, 2, 0, 1]
    pixels = drawn(detections(*boxes, labels=labels), ("one name", "another", "a third"))
    # Three have room: above, below, and inside at the top. The box itself has 156 pixels of the last one's colour.
    assert [of(pixels, i).sum() > 250 for i in range(3)] == [True] * 3
    three = drawn(detections(*boxes[:3], labels=labels[:3]), ("one name", "another", "a third"))
    inside = np.s_[101:139, 101:139]
    assert np.array_equal(three[inside], pixels[inside])


def test_an_object_below_the_threshold_is_not_drawn():
    objects = detections((10, 50, 60, 90), (200, 50, 260, 90), scores=[0.9, 0.3], labels=[0, 1])
    assert of(drawn(objects), 1).any()
    assert not of(drawn(objects, threshold=0.5), 1).any()
    nothing = drawn(objects, threshold=0.95)
    assert (nothing == GROUND).all()


def test_three_hundred_objects_have_thin_outlines_and_no_labels():
    boxes = [(20 * i, 20 * j, 20 * i + 16, 20 * j + 16) for i in range(20) for j in range(15)]
    crops = [torch.ones(16, 16, dtype=torch.bool)] * 300
    masks = Masks((300, 400), [(20 * i, 20 * j) for i in range(20) for j in range(15)], crops)
    pixels = drawn(detections(*boxes, scores=[0.9] * 300, masks=masks), ("nucleus",))
    for i in range(20):
        for j in range(15):
            part = pixels[20 * j : 20 * j + 20, 20 * i : 20 * i + 20]
            assert (part[16:] == GROUND).all()
            assert (part[:, 16:] == GROUND).all()
            assert len({tuple(p) for p in part[:16, :16].reshape(-1, 3)}) == 2  # inside and rim
            assert tuple(part[1, 1]) != tuple(part[0, 0])


def test_many_objects_of_one_class_have_no_labels_though_there_is_room():
    boxes = [(80 * i, 75 * j, 80 * i + 70, 75 * j + 70) for i in range(5) for j in range(4)]
    with_scores, without = (drawn(detections(*boxes, scores=scores), ("cell",)) for scores in ([0.9] * 20, None))
    assert np.array_equal(with_scores, without)
    few, few_without = (drawn(detections(*boxes[:5], scores=scores), ("cell",)) for scores in ([0.9] * 5, None))
    assert not np.array_equal(few, few_without)


def test_small_images_are_enlarged_with_their_objects():
    crop = torch.ones(8, 8, dtype=torch.bool)
    objects = detections((16, 16, 24, 24), masks=Masks((64, 64), [(16, 16)], [crop]))
    pixels = drawn(objects, ("",), size=(64, 64))
    assert pixels.shape == (256, 256, 3)
    changed = np.argwhere((pixels != GROUND).any(-1))
    assert changed.min(0).tolist() == [64, 64]
    assert changed.max(0).tolist() == [95, 95]


def test_keypoints_are_joined_where_their_score_is_high():
    keypoints = torch.tensor([[[120.0, 100.0, 0.9], [280.0, 100.0, 0.9], [200.0, 250.0, 0.1]]])
    objects = detections((100, 50, 300, 280), keypoints=keypoints)
    pixels = drawn(objects, ("",), keypoints=KeypointSchema(("a", "b", "c"), ((0, 1), (1, 2))))
    assert tuple(pixels[100, 200]) == draw.colour(0)
    assert tuple(pixels[100, 280]) == draw.colour(0)
    assert tuple(pixels[250, 200]) == (GROUND,) * 3
    assert tuple(pixels[175, 240]) == (GROUND,) * 3
    assert tuple(drawn(objects, ("",))[100, 200]) == (GROUND,) * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_without_objects_the_image_is_unchanged(channels):
    source = image(channels, 300, 400)
    pixels = np.asarray(draw.instances(source, detections(), CLASSES))
    assert np.array_equal(pixels, source.expand(3, -1, -1).permute(1, 2, 0).numpy())


def test_the_source_is_not_changed():
    source = image(3, 300, 400)
    before = source.clone()
    draw.instances(source, detections((10, 10, 50, 50)), CLASSES)
    assert torch.equal(source, before)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (480, 640)),
        ((20, 30), (180, 270)),
        ((4000, 6000), (4000, 6000)),
        ((9000, 12000), (5017, 6689)),
        ((1, 100_000), (1, 16_384)),
        ((100_000, 1), (16_384, 1)),
        ((5000, 2), (15_000, 6)),
        ((1, 1), (256, 256)),
    ],
)
def test_the_size_of_a_drawing(size, expected):
    height, width = draw.drawn_size(size)
    assert (height, width) == expected
    assert height * width <= draw.MAX_PIXELS + max(height, width)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 3)])
def test_strips_are_drawn(size):
    """Letters and lines are as large as the shorter side allows, whatever the longer one."""
    height, width = size
    crop = torch.ones(height, width, dtype=torch.bool)
    objects = detections((0, 0, width, height), scores=[0.9], masks=Masks(size, [(0, 0)], [crop]))
    assert np.asarray(draw.instances(image(3, *size), objects, CLASSES)).shape[:2] == draw.drawn_size(size)
    caption = draw.captioned(image(3, *size), LINES)
    assert caption.height <= draw.drawn_size(size)[0] + 3 * 72 + 8
    assert caption.width >= draw.MIN_WIDTH


def test_objects_are_made_smaller_with_their_image(monkeypatch):
    monkeypatch.setattr(draw, "MAX_PIXELS", 300 * 400 // 4)
    crop = torch.ones(100, 200, dtype=torch.bool)
    points = torch.tensor([[[200.0, 100.0, 0.9]]])
    objects = detections((100, 50, 300, 150), masks=Masks((300, 400), [(100, 50)], [crop]), keypoints=points)
    pixels = drawn(objects, ("",))
    assert pixels.shape == (150, 200, 3)
    changed = np.argwhere((pixels != GROUND).any(-1))
    assert (changed.min(0).tolist(), changed.max(0).tolist()) == ([25, 50], [74, 149])
    assert tuple(pixels[50, 100]) == draw.colour(0)


@pytest.mark.parametrize(
    "box",
    [
        (float("nan"), 1, 2, 3),
        (float("-inf"), 0, float("inf"), 20),
        (1e30, 1e30, 2e30, 2e30),
        (-1e30, -1e30, 1e30, 1e30),
        (50, 50, 50, 50),
        (60, 60, 20, 20),
        (-50, -50, -10, -10),
        (399.9, 299.9, 500, 400),
    ],
)
def test_boxes_that_are_none(box):
    points = torch.tensor([[[float("nan"), 5.0, 0.9], [float("inf"), -1e30, 0.9], [20.0, 20.0, float("nan")]]])
    schema = KeypointSchema(("a", "b", "c"), ((0, 1), (1, 2)))
    objects = detections(box, (100, 100, 150, 150), scores=[0.9, 0.5], labels=[7, 1], keypoints=points.repeat(2, 1, 1))
    pixels = drawn(objects, keypoints=schema)
    assert pixels.shape == (300, 400, 3)
    assert of(pixels, 1).any()  # the others are drawn


def test_a_label_without_a_name():
    texts = drawn(detections((100, 100, 250, 150), labels=[5]), ("cat", "dog"))
    assert not np.array_equal(texts, drawn(detections((100, 100, 250, 150), labels=[5]), ("", "", "", "", "", "")))
