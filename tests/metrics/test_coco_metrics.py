"""Average precision worked by hand, and as pycocotools has it."""

import json
import math

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.coco.evaluator import KEYPOINT_NUMBERS, keypoint_sigmas, number_names
from vertebra.metrics.coco.instances import image_instances
from vertebra.metrics.coco.match import IGNORED, UNMATCHED, confusion_matrix, match, similarity_matrix
from vertebra.ops.rle import encode_mask
from vertebra.structures import KeypointSchema, Masks, Prediction, Target

A, B = [0, 0, 10, 10], [50, 50, 70, 70]
SHIFTED = [0, 0, 10, 6]
"""Its IoU with A is 0.6."""


def objects(boxes, labels=None, crowd=None, **more) -> Target:
    labels = [0] * len(boxes) if labels is None else labels
    flags = None if crowd is None else torch.tensor(crowd, dtype=torch.bool)
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(boxes=tensor, labels=torch.tensor(labels, dtype=torch.long), crowd=flags, **more)


def detections(boxes, scores, labels=None, **more) -> Prediction:
    labels = [0] * len(boxes) if labels is None else labels
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(scores, dtype=torch.float32)
    return Prediction(boxes=tensor, labels=torch.tensor(labels, dtype=torch.long), scores=scores, **more)


def computed(*pairs, classes=1, iou_types=("box",), keypoints=None) -> dict:
    metrics = CocoMetrics(classes, iou_types, keypoints)
    for prediction, target in pairs:
        metrics.update([prediction], [target])
    values = metrics.compute()
    json.dumps(values, allow_nan=False)  # what is computed goes into JSON
    assert all(math.isfinite(v) for v in values.values() if isinstance(v, float))
    assert {k for k, v in values.items() if isinstance(v, float)} <= set(metrics.names)
    return values


def similarity(prediction, target, iou_type, keypoints=None) -> np.ndarray:
    return similarity_matrix(
        image_instances(prediction, target, masks=target.masks is not None), iou_type, keypoint_sigmas(keypoints)
    )


# -- boxes


def test_one_object_and_one_hit():
    values = computed((detections([A], [0.9]), objects([A])))
    assert values["box_ap"] == values["box_ap50"] == values["box_ap75"] == pytest.approx(1)
    assert values["box_ar1"] == values["box_ar100"] == 1
    assert values["f1"] == values["precision"] == values["recall"] == 1
    assert values["threshold"] == pytest.approx(0.45)  # half-way to no score at all
    assert values["confusion"] == [[1, 0], [0, 0]]


def test_a_hit_below_a_false_one():
    """At every recall the best precision is 1 of 2."""
    values = computed((detections([B, A], [0.9, 0.8]), objects([A])))
    assert values["box_ap"] == pytest.approx(0.5)
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["threshold"] == pytest.approx(0.4)
    assert values["confusion"] == [[1, 0], [1, 0]]


def test_a_hit_above_a_false_one():
    """The false one costs nothing in AP, and the threshold lies between them."""
    values = computed((detections([A, B], [0.9, 0.5]), objects([A])))
    assert values["box_ap"] == pytest.approx(1)
    assert values["threshold"] == pytest.approx(0.7)
    assert values["f1"] == 1


def test_iou_of_six_tenths():
    """Right at IoU 0.5, 0.55 and 0.6, three of ten; wrong at 0.75."""
    values = computed((detections([[0, 0, 10, 6.1]], [0.9]), objects([A])))
    assert values["box_ap"] == pytest.approx(0.3)
    assert values["box_ap50"] == pytest.approx(1)
    assert values["box_ap75"] == 0
    assert values["pr"]["box"]["50"]["mean"] == [1.0] * 101
    assert values["pr"]["box"]["75"]["mean"] == [0.0] * 101


def test_half_of_two_objects():
    """Precision 1 up to recall 0.5: at 51 of 101 recalls."""
    values = computed((detections([A], [0.9]), objects([A, B])))
    assert values["box_ap"] == pytest.approx(51 / 101)
    assert values["box_ar100"] == 0.5
    assert values["pr"]["box"]["50"]["mean"] == [1.0] * 51 + [0.0] * 50
    assert values["pr"]["box"]["75"]["classes"] == [[1.0] * 51 + [0.0] * 50]


def test_a_second_detection_of_the_same_is_false():
    values = computed((detections([A, A], [0.9, 0.8]), objects([A, B])))
    assert values["box_ap50"] == pytest.approx(51 / 101)
    assert values["precision"] == 1  # at the threshold between them
    assert values["threshold"] == pytest.approx(0.85)


def test_images_of_more_objects_than_coco_counts():
    """Of 20 objects, all detected, COCO's evaluation with 12 detections sees 12: at 61 of 101 recalls."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(20)]
    for max_detections, expected in ((12, 61 / 101), (20, 1)):
        metrics = CocoMetrics(1, ("box",), max_detections=max_detections)
        metrics.update([detections(boxes, [0.9 - 0.01 * i for i in range(20)])], [objects(boxes)])
        values = metrics.compute()
        assert values["box_ap"] == pytest.approx(expected)
        assert values[f"box_ar{max_detections}"] == pytest.approx(max_detections / 20)
        assert values.keys() >= {f"box_ar{max_detections}", "box_ar1"}
        assert metrics.names[f"box_ar{max_detections}"] == f"box AR{max_detections}"
        assert values["recall"] == 1  # at the threshold, all are counted


def test_sizes():
    """By the annotated area where there is one, else by that of the box."""
    values = computed((detections([A], [0.9]), objects([A])))
    assert values["box_ap_small"] == pytest.approx(1)
    assert not values.keys() & {"box_ap_medium", "box_ap_large", "box_ar_medium"}
    values = computed((detections([A], [0.9]), objects([A], areas=torch.tensor([5000.0]))))
    assert values["box_ap_medium"] == pytest.approx(1)
    assert "box_ap_small" not in values


def test_a_crowd_is_not_missed_and_what_lies_in_it_is_not_false():
    inside = [52, 52, 56, 56]
    values = computed((detections([inside, inside, A], [0.9, 0.8, 0.7]), objects([B, A], crowd=[True, False])))
    assert values["box_ap"] == pytest.approx(1)
    assert values["f1"] == 1
    assert values["confusion"] == [[1, 0], [0, 0]]
    assert values["per_class"]["objects"] == [1]
    outside = computed((detections([[0, 50, 9, 59], A], [0.9, 0.7]), objects([B, A], crowd=[True, False])))
    assert outside["box_ap"] == pytest.approx(0.5)


def test_no_objects():
    values = computed((detections([A], [0.9]), objects([])))
    assert not [key for key in values if key.startswith("box")]
    assert values["confusion"] == [[0, 0], [1, 0]]
    assert values["threshold"] == 0.5
    assert values["f1"] == values["precision"] == 0
    assert values["per_class"]["box_ap"] == [None]
    assert values["pr"]["box"]["50"] == {"mean": None, "classes": [None]}


def test_no_predictions():
    values = computed((detections([], []), objects([A])))
    assert values["box_ap"] == values["box_ar100"] == values["recall"] == 0
    assert values["threshold"] == 0.5
    assert values["confusion"] == [[0, 1], [0, 0]]
    assert "precision" not in values


@pytest.mark.parametrize("iou_types", [("box",), ("mask", "boundary"), ("keypoints",)])
def test_nothing_at_all(iou_types):
    assert computed(classes=2, iou_types=iou_types)["threshold"] == 0.5
    values = computed((detections([], []), objects([])), classes=2, iou_types=iou_types)
    assert values["confusion"] == np.zeros((3, 3)).tolist()


def test_objects_are_matched_within_their_image_alone():
    values = computed((detections([A], [0.9]), objects([B])), (detections([B], [0.8]), objects([A])))
    assert values["box_ap"] == 0
    assert values["confusion"] == [[0, 2], [2, 0]]


# -- classes, threshold, confusion


def test_per_class():
    """Class 0: one of two detected, nothing false; class 1: detected below a false one; class 2 does not occur."""
    pairs = [
        (detections([A, B], [0.9, 0.8], [0, 1]), objects([A], [0])),
        (detections([A], [0.7], [1]), objects([A, B], [1, 0])),
    ]
    values = computed(*pairs, classes=3)
    assert values["per_class"]["box_ap"] == [pytest.approx(51 / 101), pytest.approx(0.5), None]
    assert values["per_class"]["box_ap50"] == [pytest.approx(51 / 101), pytest.approx(0.5), None]
    assert values["per_class"]["objects"] == [2, 1, 0]
    assert values["box_ap"] == pytest.approx((51 / 101 + 0.5) / 2)  # over the classes that occur
    # F1 with one, two, three detections: 2/4, 2/5, 4/6: all are kept
    assert values["threshold"] == pytest.approx(0.35)
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["per_class"]["recall"] == [0.5, 1.0, None]
    assert values["per_class"]["precision"] == [1.0, 0.5, None]
    assert values["confusion"] == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert values["pr"]["box"]["50"]["classes"][1] == [0.5] * 101


def test_the_threshold_has_the_best_f1():
    """Three objects; hit 0.9, false 0.8, hit 0.7, false 0.6, false 0.5: F1 is 2/4, 2/5, 4/6, 4/7, 4/8."""
    far = [[100, 0, 110, 10], [0, 100, 10, 110], [100, 100, 110, 110]]
    boxes, scores = [A, far[0], B, far[1], far[2]], [0.9, 0.8, 0.7, 0.6, 0.5]
    values = computed((detections(boxes, scores), objects([A, B, [200, 200, 220, 220]])))
    assert values["threshold"] == pytest.approx(0.65)
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["precision"] == values["recall"] == pytest.approx(2 / 3)
    curve = values["curve"]
    assert curve["score"][75] == 0.75
    assert [curve[k][75] for k in ("precision", "recall", "f1")] == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert curve["f1"][95] == 0
    assert curve["precision"][95] is None


def test_a_threshold_of_a_few_chance_hits_is_not_used():
    """Of 30 objects every box is right, but of the keypoints one alone, at the highest score: its F1 of 2 / 31 says
    nothing, and the threshold that it suggests would hide 29 of 30 detections."""
    schema = KeypointSchema(("one",), sigmas=(0.1,))
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(30)]
    keypoints = torch.tensor([[[x1 + 5.0, 5.0, 2.0]] for x1, *_ in boxes])
    shifted = keypoints + torch.tensor([0.0, 40.0, 0.0])
    shifted[0] = keypoints[0]
    pair = (
        detections(boxes, [0.9 - 0.01 * i for i in range(30)], keypoints=shifted),
        objects(boxes, keypoints=keypoints),
    )
    both = computed(pair, iou_types=("keypoints", "box"), keypoints=schema)
    assert (both["threshold"], both["threshold_from"]) == (pytest.approx((0.9 - 0.29) / 2), "box")
    assert both["f1"] == pytest.approx(2 / 60)  # of the keypoints, all detections being kept
    assert both["per_class"]["objects"] == [30]
    alone = computed(pair, iou_types=("keypoints",), keypoints=schema)
    assert (alone["threshold"], alone["threshold_from"]) == (0.5, "default")
    assert alone["recall"] == pytest.approx(1 / 30)
    reverse = computed(pair, iou_types=("box", "keypoints"), keypoints=schema)
    assert (reverse["threshold_from"], reverse["f1"]) == ("box", 1)


@pytest.mark.parametrize(("count", "expected"), [(19, "keypoints"), (20, "default")])
def test_the_least_f1_of_a_threshold(count, expected):
    """One hit among `count` objects: F1 is 2 / 20 or 2 / 21."""
    schema = KeypointSchema(("one",), sigmas=(0.1,))
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(count)]
    keypoints = torch.tensor([[[x1 + 5.0, 5.0, 2.0]] for x1, *_ in boxes])
    pair = (detections(boxes[:1], [0.9], keypoints=keypoints[:1]), objects(boxes, keypoints=keypoints))
    assert computed(pair, iou_types=("keypoints",), keypoints=schema)["threshold_from"] == expected


def test_equal_scores_stand_or_fall_together():
    """Both at 0.8: F1 is 2/3 with both and cannot be had with one."""
    values = computed((detections([B, A], [0.8, 0.8]), objects([A])))
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["threshold"] == pytest.approx(0.4)


def test_scores_beyond_0_to_1():
    """As logits have it."""
    values = computed((detections([A, B], [3.0, -2.0]), objects([A, B])))
    assert (values["f1"], values["threshold"]) == (1, -2)
    assert (values["curve"]["score"][0], values["curve"]["score"][100]) == (-2, 3)


def test_confusion():
    """The wrong class on an object, a detection on the background, a missed object, and a low score.

    F1 with one detection 2/5, with two 4/6, with three 4/7, four 4/8.
    """
    c, d = [100, 0, 120, 20], [0, 100, 20, 120]
    pair = (
        detections([A, B, c, [150, 150, 170, 170]], [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]),
        objects([A, B, c, d], [0, 1, 1, 0]),
    )
    values = computed(pair, classes=2)
    assert values["threshold"] == pytest.approx(0.75)
    assert values["confusion"] == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    more = (detections([A, B], [0.7, 0.7], [0, 1]), objects([A, B], [0, 1]))  # now 0.7 is worth keeping
    values = computed(pair, more, classes=2)
    assert values["threshold"] == pytest.approx(0.65)
    assert values["confusion"] == [[2, 0, 1], [1, 2, 0], [0, 0, 0]]  # c, of class 1, was taken for class 0


def test_confusion_prefers_the_same_class():
    """A wrong class with the higher score does not take the object from the right one."""
    values = computed((detections([A, A], [0.9, 0.8], [1, 0]), objects([A], [0])), classes=2)
    assert values["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_matching_takes_the_nearest_that_is_left():
    similarity = np.array([[0.6, 0.7, 0.0], [0.0, 0.9, 0.55], [0.5, 0.8, 0.2], [0.4, 0.3, 0.2]])
    none = np.zeros(3, bool)
    assert match(similarity, none, none).tolist() == [1, 2, 0, UNMATCHED]
    last = np.array([False, False, True])
    assert match(similarity, last, last).tolist() == [1, IGNORED, 0, UNMATCHED]
    both = np.array([[0.9], [0.8]])
    assert match(both, np.array([True]), np.array([True])).tolist() == [IGNORED, IGNORED]
    assert match(both, np.array([True]), np.array([False])).tolist() == [IGNORED, UNMATCHED]


# -- one image


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([A, B], [0.9, 0.8], (2, 0, 0, 0.0)),
        ([A, B], [0.9, 0.4], (1, 1, 0, 1 - 2 / 3)),  # below the threshold
        ([A, [0, 100, 10, 110]], [0.9, 0.8], (1, 1, 1, 0.5)),
        ([], [], (0, 2, 0, 1.0)),
    ],
)
def test_row(boxes, scores, expected):
    row = CocoMetrics(1, ("box",)).row(detections(boxes, scores), objects([A, B]))
    assert (row["true_positives"], row["missed"], row["false_positives"]) == expected[:3]
    assert row["error"] == pytest.approx(expected[3])
    assert row["objects"] == 2
    json.dumps(row)


def test_row_of_an_empty_image():
    metrics = CocoMetrics(1, ("box",))
    assert metrics.row(detections([], []), objects([]))["error"] == 0
    assert metrics.row(detections([A], [0.3]), objects([]))["error"] == 0
    assert metrics.row(detections([A], [0.6]), objects([]))["error"] == 1
    crowded = metrics.row(detections([A], [0.6]), objects([A], crowd=[True]))
    assert (crowded["objects"], crowded["false_positives"], crowded["error"]) == (0, 0, 0)


def test_row_at_another_threshold():
    metrics = CocoMetrics(1, ("box",), threshold=0.25)
    assert metrics.row(detections([A], [0.3]), objects([A]))["error"] == 0


# -- masks and boundaries


def masked(boxes, size=(40, 40)) -> Masks:
    """Rectangles as masks."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    return Masks.from_dense(masks)


def test_masks_and_not_their_boxes():
    """Two triangles of one box share the diagonal alone: the boxes' IoU is 1, the masks' 20 of 400."""
    upper = torch.zeros(1, 40, 40, dtype=torch.bool)
    upper[0, :20, :20] = torch.ones(20, 20).triu().bool()
    lower = torch.zeros(1, 40, 40, dtype=torch.bool)
    lower[0, :20, :20] = torch.ones(20, 20).tril().bool()
    prediction = detections([[0, 0, 20, 20]], [0.9], masks=Masks.from_dense(lower))
    target = objects([[0, 0, 20, 20]], masks=Masks.from_dense(upper))
    both = computed((prediction, target), iou_types=("box", "mask"))
    assert both["box_ap"] == pytest.approx(1)
    assert both["mask_ap"] == 0
    assert both["f1"] == 1  # the first iou_type decides
    assert computed((prediction, target), iou_types=("mask", "box"))["f1"] == 0
    assert computed((detections([A], [0.9], masks=Masks.from_dense(upper)), target), iou_types=("mask",))[
        "mask_ap"
    ] == pytest.approx(1)


def test_boundaries_are_stricter_than_masks():
    """Size 40 x 30, diagonal 50: boundaries are one pixel wide. Squares of 10 and of 8 inside it: 64 of 100 pixels in
    common, but the outlines, of 36 and 28 pixels, have none."""
    inner, outer = masked([[6, 6, 14, 14]], (40, 30)), masked([[5, 5, 15, 15]], (40, 30))
    pair = (detections([[6, 6, 14, 14]], [0.9], masks=inner), objects([[5, 5, 15, 15]], masks=outer))
    values = computed(pair, iou_types=("mask", "boundary"))
    assert values["mask_ap"] == pytest.approx(0.3)  # right at 0.5, 0.55 and 0.6
    assert values["boundary_ap"] == 0
    assert values["f1"] == 1
    assert computed(pair, iou_types=("boundary",))["f1"] == 0


def test_boundary_iou_by_hand():
    """Size 40 x 30, squares of 10, one shifted by one pixel: masks share 90 of 110 pixels, IoU 0.818. The outlines, of
    36 pixels each, share the upper and the lower side's 9 each, without the corners' columns 18: IoU 18 / 54 = 1/3."""
    first, second = masked([[5, 5, 15, 15]], (40, 30)), masked([[6, 5, 16, 15]], (40, 30))
    target = objects([A], masks=first)
    assert similarity(detections([A], [0.9], masks=second), target, "boundary") == pytest.approx(1 / 3)
    assert similarity(detections([A], [0.9], masks=first), target, "boundary") == pytest.approx(1)


def test_inside_a_crowd_outlines_do_not_matter():
    inside = detections([[6, 6, 14, 14]], [0.9], masks=masked([[6, 6, 14, 14]], (40, 30)))
    crowd = objects([[0, 0, 30, 40]], crowd=[True], masks=Masks.from_dense(torch.ones(1, 40, 30, dtype=torch.bool)))
    assert computed((inside, crowd), iou_types=("boundary",))["confusion"] == [[0, 0], [0, 0]]


def test_boundaries_at_the_edge_of_the_image_count():
    """A mask that fills the image has an outline too: 2 * 40 + 2 * 30 - 4 pixels of 1200."""
    full = np.asfortranarray(np.ones((40, 30), np.uint8))
    assert coco_mask.area(coco_mask.rleToBoundary(coco_mask.encode(full))) == 136


def test_area_of_masks_decides_on_the_size():
    """A box of 40 x 40 is of medium size; the mask in it, of 30 x 30 pixels, is small."""
    mask = masked([[0, 0, 30, 30]], (50, 50))
    values = computed(
        (detections([[0, 0, 40, 40]], [0.9], masks=mask), objects([[0, 0, 40, 40]], masks=mask)), iou_types=("mask",)
    )
    assert "mask_ap_small" in values
    assert "mask_ap_medium" not in values


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths(seed):
    """The same as from the whole image, byte for byte."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        height, width = torch.randint(1, 12, (2,), generator=generator).tolist()
        x, y = (int(torch.randint(0, side + 1, (1,), generator=generator)) for side in (width, height))
        w, h = (
            int(torch.randint(0, side - at + 1, (1,), generator=generator)) for side, at in ((width, x), (height, y))
        )
        crop = torch.rand(h, w, generator=generator) < torch.rand(1, generator=generator)
        canvas = np.zeros((height, width), np.uint8, order="F")
        canvas[y : y + h, x : x + w] = crop
        expected = coco_mask.encode(canvas)
        assert encode_mask(crop, (x, y), (height, width)) == {**expected, "counts": expected["counts"].decode()}


def test_an_empty_mask_finds_nothing():
    target = objects([A], masks=masked([A]))
    empty = Masks((40, 40), [(3, 3)], [torch.zeros(0, 5, dtype=torch.bool)])
    assert computed((detections([A], [0.9], masks=empty), target), iou_types=("mask", "boundary"))["mask_ap"] == 0


# -- keypoints


def test_oks_by_hand():
    """Two keypoints of sigma 0.1, area 100; one right, one 2 pixels off: (1 + exp(-4 / 0.04 / 100 / 2)) / 2."""
    schema = KeypointSchema(("left", "right"), sigmas=(0.1, 0.1))
    keypoints = torch.tensor([[[2.0, 2.0, 2.0], [8.0, 8.0, 1.0]]])
    target = objects([A], keypoints=keypoints)
    prediction = detections([A], [0.9], keypoints=keypoints + torch.tensor([[0.0, 0, 0], [0, 2, 0]]))
    metrics = CocoMetrics(1, ("keypoints",), schema)
    assert similarity(prediction, target, "keypoints", schema) == pytest.approx((1 + math.exp(-0.5)) / 2)
    values = computed((prediction, target), iou_types=("keypoints",), keypoints=schema)
    assert values["keypoint_ap"] == pytest.approx(0.7)  # 0.80 is right at 0.5, 0.55, ..., 0.8
    assert values["keypoint_ap75"] == pytest.approx(1)
    unseen = objects([A], keypoints=keypoints * torch.tensor([1.0, 1, 0]))
    assert metrics.row(prediction, unseen)["objects"] == 0


def test_near_an_object_without_keypoints_nothing_is_false():
    """Near is a box three times as wide and high around the object's, here from (-10, -10) to (20, 20)."""
    schema = KeypointSchema(("one",), sigmas=(0.1,))
    target = objects([A], keypoints=torch.zeros(1, 1, 3), areas=torch.tensor([100.0]))
    for x, expected in ((-9.0, 0), (19.0, 0), (21.0, 0), (25.0, 1)):  # OKS 1, 1, exp(-1 / 8) = 0.88, 0.04
        prediction = Prediction(
            labels=torch.zeros(1).long(), scores=torch.ones(1), keypoints=torch.tensor([[[x, 5.0, 1.0]]])
        )
        assert CocoMetrics(1, ("keypoints",), schema).row(prediction, target)["false_positives"] == expected
    close = Prediction(labels=torch.zeros(1).long(), scores=torch.ones(1), keypoints=torch.tensor([[[21.0, 5, 1]]]))
    assert similarity(close, target, "keypoints", schema) == pytest.approx(math.exp(-1 / 8))


def test_default_sigmas():
    assert keypoint_sigmas(None).tolist() == keypoint_sigmas(KeypointSchema(tuple("abcdefghijklmnopq"))).tolist()
    assert keypoint_sigmas(None)[:2] == pytest.approx([0.026, 0.025])
    assert keypoint_sigmas(KeypointSchema(("a", "b"))).tolist() == [0.05, 0.05]


def test_sigmas_of_the_data_replace_those_of_the_model():
    schema = KeypointSchema(("a", "b"), sigmas=(0.1, 0.2))
    assert CocoMetrics(1, ("keypoints",), schema).sigmas.tolist() == [0.1, 0.2]
    assert CocoMetrics(1, ("keypoints",), schema, sigmas=(0.3, 0.4)).sigmas.tolist() == [0.3, 0.4]


@pytest.fixture(scope="module")
def persons(data_folder):
    return json.loads((data_folder / "keypoints/annotations/person_keypoints.json").read_text())


@pytest.mark.parametrize("name", ["oracle_case1_preds.json", "oracle_case2_preds.json", "example_coco_preds.json"])
def test_published_keypoint_scores(data_folder, persons, name):
    folder = data_folder / "keypoints/annotations"
    expected = json.loads((folder / "expected_oks.json").read_text())[name]["measured"]
    results = json.loads((folder / name).read_text())
    metrics = CocoMetrics(1, ("keypoints",))
    for image in persons["images"]:
        annotations = [a for a in persons["annotations"] if a["image_id"] == image["id"]]
        image_results = sorted((r for r in results if r["image_id"] == image["id"]), key=lambda r: -r["score"])
        prediction = Prediction(
            labels=torch.zeros(len(image_results)).long(),
            scores=torch.tensor([r["score"] for r in image_results], dtype=torch.float64),
            keypoints=torch.tensor([r["keypoints"] for r in image_results], dtype=torch.float64).reshape(-1, 17, 3),
        )
        metrics.update([prediction], [target_of(annotations, {1: 0}, image["id"])])
    values = metrics.compute()
    keys = [key for key, _ in KEYPOINT_NUMBERS]
    assert [values[f"keypoint_{k}"] for k in keys] == pytest.approx(list(expected.values()), abs=1e-15)


# -- as pycocotools has it


def target_of(annotations, numbers, image) -> Target:
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    keypoints = [a["keypoints"] for a in annotations if "keypoints" in a]
    return Target(
        boxes=boxes,
        labels=torch.tensor([numbers[a["category_id"]] for a in annotations], dtype=torch.long),
        crowd=torch.tensor([a["iscrowd"] for a in annotations], dtype=torch.bool),
        areas=torch.tensor([a["area"] for a in annotations], dtype=torch.float64),
        keypoints=torch.tensor(keypoints, dtype=torch.float64).reshape(-1, 17, 3) if keypoints else None,
        id=image,
    )


def jittered(annotations, image, categories, generator) -> list[dict]:
    """Detections near the objects, repeated ones, ones of another class, and ones that are nowhere near."""
    results = []
    for annotation in annotations:
        for _ in range(int(generator.integers(0, 4))):
            x, y, w, h = annotation["bbox"]
            noise = generator.normal(0, generator.choice([0.02, 0.1, 0.3]), 4) * [w, h, w, h]
            box = [x + noise[0], y + noise[1], max(1.0, w + noise[2]), max(1.0, h + noise[3])]
            right = generator.random() < 0.8
            results.append(
                {"bbox": box, "category_id": annotation["category_id"] if right else generator.choice(categories)}
            )
    for _ in range(int(generator.integers(0, 5))):
        x, y = generator.random(2) * [image["width"], image["height"]] * 0.8
        w, h = generator.random(2) * [image["width"], image["height"]] * 0.2 + 1
        results.append({"bbox": [x, y, w, h], "category_id": generator.choice(categories)})
    for result in results:
        x, y, w, h = result["bbox"]
        box = np.clip([x, y, x + w, y + h], 0, [image["width"], image["height"]] * 2)
        result["bbox"] = [float(v) for v in (box[0], box[1], max(1.0, box[2] - box[0]), max(1.0, box[3] - box[1]))]
        result |= {"image_id": image["id"], "score": float(np.round(generator.random(), 2))}
        result["category_id"] = int(result["category_id"])
    return results


@pytest.mark.parametrize("iou_type", ["box", "mask"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_agrees_with_pycocotools(data_folder, capsys, iou_type, split):
    """In all twelve numbers, with crowds, many equal scores, and original category numbers with gaps."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = np.random.default_rng(7)
    reference = COCO(str(data_folder / f"coco128/annotations/instances_{split}.json"))
    categories = sorted(reference.getCatIds())
    numbers = {number: i for i, number in enumerate(categories)}
    results, metrics = [], CocoMetrics(len(categories), (iou_type,))
    for number in sorted(reference.imgs, reverse=True):  # whatever order they come in
        image, annotations = reference.imgs[number], reference.imgToAnns[number]
        rows = jittered(annotations, image, categories, generator)
        target = target_of(annotations, numbers, number)
        order = sorted(rows, key=lambda r: -r["score"])
        boxes = torch.tensor([r["bbox"] for r in order], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        prediction = Prediction(
            boxes=boxes,
            labels=torch.tensor([numbers[r["category_id"]] for r in order], dtype=torch.long),
            scores=torch.tensor([r["score"] for r in order], dtype=torch.float64),
        )
        if iou_type == "mask":
            size = (image["height"], image["width"])
            whole = np.stack([reference.annToMask(a) for a in annotations]) if annotations else np.zeros((0, *size))
            target.masks = Masks.from_dense(torch.from_numpy(whole).bool())
            prediction.masks = Masks(size)
            for row in order:
                x, y, w, h = (round(v) for v in row["bbox"])
                crop = torch.from_numpy(generator.random((h, w)) < 0.95)[: size[0] - y, : size[1] - x]
                # inside the object where there is one, so that masks of objects and of results are alike
                inside = [m[y : y + h, x : x + w] for m in whole.astype(bool) if m[y : y + h, x : x + w].any()]
                if inside and generator.random() < 0.8:
                    covered = torch.from_numpy(inside[int(generator.integers(len(inside)))])
                    crop = crop & covered[: crop.shape[0], : crop.shape[1]]
                prediction.masks.corners.append((x, y))
                prediction.masks.crops.append(crop)
                canvas = np.zeros(size, np.uint8, order="F")
                canvas[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
                row["segmentation"] = coco_mask.encode(canvas)
                del row["bbox"]
        results += rows
        metrics.update([prediction], [target])
    evaluator = COCOeval(reference, reference.loadRes(results), {"box": "bbox", "mask": "segm"}[iou_type])
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    values = metrics.compute()
    for (key, _), expected in zip(number_names(iou_type, 100), evaluator.stats, strict=True):
        assert values.get(key, -1) == pytest.approx(expected, abs=1e-9), key
    assert 0.05 < values[f"{iou_type}_ap"] < 0.9
    # our own matching agrees with COCO's: the recall at IoU 0.5 of all detections, class by class
    similarities = [similarity_matrix(image, iou_type, metrics.sigmas) for image in metrics.images]
    matrix = confusion_matrix(metrics.images, similarities, 0.0, len(categories), iou_type)
    recall = evaluator.eval["recall"][0, :, 0, -1]
    for k in range(len(categories)):
        if recall[k] > -1:
            assert matrix[k, k] / matrix[k].sum() == pytest.approx(recall[k]), k


# -- processes


def test_processes_are_put_together(monkeypatch):
    """Two collectors with a part each, and one image that came to both: the same as one collector with all."""
    pairs = [
        (detections([A, B], [0.9, 0.8]), objects([A], id=3)),
        (detections([A], [0.7]), objects([A, B], id=1)),
        (detections([B], [0.8]), objects([B], id=2)),
    ]
    whole, first, second = (CocoMetrics(1, ("box",)) for _ in range(3))
    for metrics, part in ((whole, pairs), (first, pairs[:2]), (second, pairs[1:])):
        metrics.update(*zip(*part))
    alone = whole.compute()

    def gather(parts, images):
        assert images is first.images
        parts[:] = [first.images, second.images]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert first.compute() == alone
    assert alone["per_class"]["objects"] == [4]


def test_reset():
    metrics = CocoMetrics(1, ("box",))
    for box, expected in ((B, 0), (A, 1)):
        metrics.update([detections([box], [0.9])], [objects([A])])
        assert metrics.compute()["box_ap"] == pytest.approx(expected)
        metrics.reset()


def test_no_confusion_matrix_of_very_many_classes(monkeypatch):
    """Its size is the square of their number."""
    for limit in (2, 1):
        monkeypatch.setattr("vertebra.metrics.coco.metrics.MAX_CONFUSION", limit)
        metrics = CocoMetrics(2, ("box",))
        metrics.update(
            [
                Prediction(
                    boxes=torch.tensor([A]).float(), labels=torch.tensor([0]), scores=torch.ones(1), size=(100, 100)
                )
            ],
            [objects([A])],
        )
        values = metrics.compute()
        assert ("confusion" in values) == (limit == 2)
        assert values["per_class"]["objects"] == [1, 0]


def test_classes_that_do_not_occur_take_no_memory():
    """COCO's precisions of 100,000 classes would take ten gigabytes."""

    def of(num_classes, *labels):
        metrics = CocoMetrics(num_classes, ("box",))
        boxes = torch.tensor([A, B]).float()
        scores = torch.tensor([0.9, 0.8])
        prediction = Prediction(boxes=boxes, labels=torch.tensor(labels), scores=scores, size=(100, 100))
        metrics.update([prediction], [objects([SHIFTED, B], labels)])
        return metrics.compute()

    few, many = of(2, 0, 1), of(100_000, 7, 99_999)
    assert {name: few[name] for name in ("box_ap", "f1", "recall")} == {
        name: many[name] for name in ("box_ap", "f1", "recall")
    }
    for name, values in few["per_class"].items():
        assert [many["per_class"][name][label] for label in (7, 99_999)] == values
        assert many["per_class"][name][8] == (0 if name == "objects" else None)
    assert many["pr"]["box"]["50"]["classes"][7] == few["pr"]["box"]["50"]["classes"][0]
