"""Average precision of poses as pycocotools has it, and errors of keypoints worked by hand."""

import contextlib
import functools
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra import tasks
from vertebra.metrics.coco.evaluator import number_names
from vertebra.metrics.pose import PoseMetrics
from vertebra.ops.crops import surroundings
from vertebra.structures import COCO_PERSON, Frame, KeypointSchema, Prediction, Region, Target

KEYS = [key for key, _ in number_names("keypoints", 20)]
PAIR = KeypointSchema(("left", "right", "chin"))


@functools.cache
def pose_task(schema=COCO_PERSON, **options):
    return tasks.create("pose", backbone="resnet18", keypoints=schema, **options).eval()


def as_pycocotools(annotations, results):
    """COCO's ten numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in sorted({a["image_id"] for a in annotations})],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


def target_of(annotations):
    """Ground truth of an image, from its annotations."""
    boxes = torch.tensor([a["bbox"] for a in annotations]).float()
    return Target(
        boxes=torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1),
        labels=torch.zeros(len(annotations), dtype=torch.long),
        keypoints=torch.tensor([a["keypoints"] for a in annotations]).float().reshape(len(annotations), -1, 3),
        crowd=torch.tensor([bool(a["iscrowd"]) for a in annotations]),
        areas=torch.tensor([float(a["area"]) for a in annotations]),
        size=(480, 640),
        id=annotations[0]["image_id"],
    )


# -- average precision

PEOPLE = {1: ((40, 30, 100, 240), (200, 100, 60, 150), (350, 60, 150, 300)), 2: ((100, 100, 120, 200),), 3: ()}
"""Boxes x, y, width, height of the people in three images."""
CROWD = (500, 300, 100, 100)


def people():
    """Annotations in COCO's form: keypoints that are spread over the box, some of them not labelled."""
    generator = np.random.default_rng(0)
    annotations = []
    for image, boxes in PEOPLE.items():
        for box in (*boxes, CROWD):
            x, y, w, h = box
            places = np.stack((x + w * generator.random(17), y + h * generator.random(17)), 1)
            visible = generator.choice([0, 1, 2], 17, p=(0.2, 0.2, 0.6))
            points = np.concatenate((places, visible[:, None]), 1) * (visible[:, None] > 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": list(box),
                    "area": 0.5 * w * h,
                    "iscrowd": int(box is CROWD),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
    return annotations


def heatmaps_of(points, region, generator):
    """[1, 17, 64, 48] with a maximum in the cell of each point, and the values of these maxima."""
    heatmaps = torch.zeros(1, 17, 64, 48)
    x, y, width, height = surroundings(region.box, (256, 192), 1.25)
    scores = generator.uniform(0.05, 1, 17).astype(np.float32)
    placed = []
    for k, (px, py) in enumerate(points):
        column = round(min(47, max(0, ((px - x) * 192 / width + 96) / 4)))
        row = round(min(63, max(0, ((py - y) * 256 / height + 128) / 4)))
        heatmaps[0, k, row, column] = float(scores[k])
        placed += [(column * 4 - 96) * width / 192 + x, (row * 4 - 128) * height / 256 + y, float(scores[k])]
    return heatmaps, placed, scores


def test_average_precision_is_that_of_pycocotools():
    """Objects are predicted one by one; those of an image are evaluated together, scored by box and keypoints, without
    the duplicates."""
    task, generator = pose_task(decoding="none"), np.random.default_rng(4)
    annotations, results, removed = people(), [], 0
    metrics = task.metrics()
    for image in PEOPLE:
        own = [a for a in annotations if a["image_id"] == image]
        target = target_of(own)
        objects = [(a, 2.0 + 9 * i, 0.9 - 0.15 * i) for i, a in enumerate(own) if not a["iscrowd"]]
        objects += [(own[0], 200.0, 0.3)] * (image == 2)  # far off
        for annotation, noise, score in objects:
            x, y, w, h = annotation["bbox"]
            region = Region((x, y, x + w, y + h), score)
            places = np.array(annotation["keypoints"]).reshape(17, 3)[:, :2]
            heatmaps, placed, scores = heatmaps_of(places + generator.normal(0, noise, (17, 2)), region, generator)
            total = score * float(scores[scores > 0.2].mean())
            frame = Frame((480, 640), (256, 192), region)
            predictions = task.decode((heatmaps,), [frame])
            assert float(predictions[0].scores[0]) == pytest.approx(total, rel=1e-5)
            np.testing.assert_allclose(predictions[0].keypoints.numpy().ravel(), placed, rtol=1e-4, atol=1e-3)
            again = Frame((480, 640), (256, 192), Region(region.box, 0.8 * score))  # a second detection of the same
            metrics.update(predictions + task.decode((heatmaps,), [again]), [target, target])
            removed += 1
            results.append({"image_id": image, "category_id": 1, "keypoints": placed, "score": total})
        if image == 3:  # without any box: its region is the whole image, with a score of 0
            whole = Frame((480, 640), (256, 192), Region((0.0, 0.0, 640.0, 480.0), 0.0))
            metrics.update(task.decode((torch.rand(1, 17, 64, 48),), [whole]), [target])
    expected = as_pycocotools(annotations, results)
    values = metrics.compute()
    assert len(metrics.objects) == 2 * removed + 1 == 11
    assert [values[key] for key in KEYS] == pytest.approx(expected, abs=1e-9)
    assert 0.1 < values["keypoint_ap"] < 0.95
    assert metrics.compute() == values  # a second time too
    metrics.reset()
    assert metrics.objects == []


@pytest.mark.parametrize("name", ["oracle_case1_preds.json", "oracle_case2_preds.json", "example_coco_preds.json"])
def test_published_numbers(data_folder, name):
    folder = data_folder / "keypoints/annotations"
    expected = json.loads((folder / "expected_oks.json").read_text())[name]["measured"]
    annotations = json.loads((folder / "person_keypoints.json").read_text())["annotations"]
    metrics = PoseMetrics(pose_task(oks_threshold=1.0))  # removes nothing
    for result in json.loads((folder / name).read_text()):
        points = torch.tensor(result["keypoints"]).float().reshape(1, 17, 3)
        prediction = Prediction(
            boxes=torch.cat((points[0, :, :2].amin(0), points[0, :, :2].amax(0)))[None],
            labels=torch.zeros(1, dtype=torch.long),
            scores=torch.tensor([float(result["score"])]),
            keypoints=points,
        )
        own = [a for a in annotations if a["image_id"] == result["image_id"]]
        metrics.update([prediction], [target_of(own)])
    values = metrics.compute()
    assert [values[key] for key in KEYS] == pytest.approx(list(expected.values()), abs=1e-9)


# -- errors


def prediction_of(points, box, score=1.0):
    points = torch.tensor(points)
    return Prediction(
        boxes=torch.tensor([box]),
        labels=torch.zeros(1, dtype=torch.long),
        scores=torch.tensor([score]),
        keypoints=torch.cat((points, torch.full((len(points), 1), 0.9)), 1)[None],
    )


def face(points, box=(0.0, 0.0, 40.0, 10.0), **more):
    return Target(
        boxes=torch.tensor([box]),
        labels=torch.zeros(1, dtype=torch.long),
        keypoints=torch.tensor([points]),
        size=(100, 100),
        **more,
    )


BOX = [0.0, 0.0, 40.0, 10.0]
"""The square root of its area is 20."""


def faces():
    """Three of them, whose mean distances are 3, 1 and 2 pixels; the third has one keypoint less."""
    truth = [[10.0, 5.0, 2.0], [40.0, 45.0, 1.0], [20.0, 20.0, 2.0]]  # 50 pixels from left to right
    first = (prediction_of([[14.0, 8.0], [40.0, 45.0], [20.0, 24.0]], BOX), face(truth, id=1))
    second = (prediction_of([[10.0, 6.0], [41.0, 45.0], [19.0, 20.0]], BOX), face(truth, id=2))
    third = (prediction_of([[12.0, 5.0], [40.0, 47.0], [0.0, 0.0]], BOX), face([*truth[:2], [0.0] * 3], id=3))
    return first, second, third


@pytest.mark.parametrize(("pair", "scale"), [((), 20), (("left", "right"), 50)])
def test_errors_by_hand(pair, scale):
    metrics = pose_task(PAIR, error_pair=pair).metrics()
    for prediction, target in faces():
        metrics.update([prediction], [target])
    values = metrics.compute()
    assert values["pixel_error"] == pytest.approx((5 + 0 + 4 + 1 + 1 + 1 + 2 + 2) / 8)
    assert values["nme"] == pytest.approx((3 + 1 + 2) / 3 / scale)
    assert values["failure_rate"] == pytest.approx(1 / 3 if scale == 20 else 0)  # 0.15, 0.05 and 0.1: one is above
    shares = [max(0, 1 - error / scale / 0.1) for error in (3, 1, 2)]
    assert values["auc"] == pytest.approx(sum(shares) / 3)
    table = values["keypoints"]
    assert table["names"] == ["left", "right", "chin"]
    assert table["count"] == [3, 3, 2]
    assert table["pixels"] == pytest.approx([8 / 3, 1, 2.5])
    assert table["nme"] == pytest.approx([8 / 3 / scale, 1 / scale, 2.5 / scale])
    assert set(metrics.names) >= {key for key, value in values.items() if isinstance(value, float)}


def test_row_of_an_object():
    metrics = pose_task(PAIR, error_pair=("left", "right")).metrics()
    prediction, target = faces()[0]
    row = metrics.row(prediction, target)
    assert (row["pixels"], row["nme"]) == (pytest.approx(3), pytest.approx(3 / 50))
    assert row["error"] == pytest.approx(1 - row["oks"])
    assert 0 < row["oks"] < 1
    exact = metrics.row(prediction_of([[10.0, 5.0], [40.0, 45.0], [20.0, 20.0]], BOX), target)
    assert (exact["oks"], exact["error"], exact["pixels"]) == (pytest.approx(1), pytest.approx(0), 0)


@pytest.mark.parametrize("missing", [0, 1])
def test_without_one_of_the_pair_an_object_has_no_error(missing):
    points = [[10.0, 5.0, 2.0], [40.0, 45.0, 1.0], [20.0, 20.0, 2.0]]
    points[missing] = [0.0, 0.0, 0.0]
    metrics = pose_task(PAIR, error_pair=("left", "right")).metrics()
    prediction = prediction_of([[10.0, 5.0], [40.0, 45.0], [23.0, 24.0]], BOX)
    metrics.update([prediction], [face(points)])
    assert "nme" not in metrics.compute()
    assert metrics.row(prediction, face(points))["nme"] is None


def test_keypoints_that_are_nowhere_labelled():
    points = [[10.0, 5.0, 2.0], [40.0, 45.0, 1.0], [0.0, 0.0, 0.0]]
    metrics = pose_task(PAIR).metrics()
    metrics.update([prediction_of([[13.0, 9.0], [40.0, 45.0], [0.0, 0.0]], BOX)], [face(points)])
    values = metrics.compute()
    assert values["keypoints"]["count"] == [1, 1, 0]
    assert values["keypoints"]["pixels"] == [5, 0, None]
    assert values["pixel_error"] == 2.5
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(("count", "pair"), [(68, (36, 45)), (98, (60, 72)), (29, (8, 9)), (30, None)])
def test_published_point_sets_know_their_pair(count, pair):
    schema = KeypointSchema(tuple(str(i) for i in range(count)))
    points = torch.zeros(count, 3)
    points[:, 2] = 2
    if pair:
        points[pair[1], :2] = torch.tensor([6.0, 8.0])
    metrics = pose_task(schema).metrics()
    prediction = prediction_of((points[:, :2] + torch.tensor([3.0, 4.0])).tolist(), BOX)
    metrics.update([prediction], [face(points.tolist())])
    assert metrics.compute()["nme"] == pytest.approx(5 / 10 if pair else 5 / 20)


def test_of_several_objects_the_box_says_which_one_is_meant():
    left = [[10.0, 5.0, 2.0], [20.0, 5.0, 2.0], [15.0, 8.0, 2.0]]
    right = [[x + 50, y, v] for x, y, v in left]
    target = Target(
        boxes=torch.tensor([BOX, [50.0, 0.0, 90.0, 10.0]]),
        labels=torch.zeros(2, dtype=torch.long),
        keypoints=torch.tensor([left, right]),
        size=(100, 100),
        id=7,
    )
    metrics = pose_task(PAIR).metrics()
    for dx, box in ((0, BOX), (50, [52.0, 0.0, 90.0, 10.0]), (25, [25.0, 0.0, 65.0, 10.0])):
        shifted = [[x + dx + 2, y] for x, y, _ in left]
        metrics.update([prediction_of(shifted, box)], [target])
    values = metrics.compute()
    assert values["pixel_error"] == pytest.approx(2)
    assert values["keypoints"]["count"] == [2, 2, 2]  # the third box lies half on each: its IoU is below 0.5


EXACT = [[10.0, 5.0], [40.0, 45.0], [20.0, 20.0]]


@pytest.mark.parametrize(
    ("predictions", "count", "pixels"),
    [
        ([(0, BOX, 0.9), (90, [60.0, 60.0, 100.0, 70.0], 0.8)], 1, 0),  # a false detection far away
        ([(0, BOX, 0.9), (3, [0.0, 0.0, 40.0, 9.0], 0.5)], 1, 0),  # a duplicate with a lower score
        ([(0, BOX, 0.5), (3, [0.0, 0.0, 40.0, 9.0], 0.9)], 1, 3),  # and with a higher one
        ([(90, [60.0, 60.0, 100.0, 70.0], 0.8)], 0, None),
        ([(3, [0.0, 0.0, 100.0, 100.0], 0.8)], 1, 3),  # the whole image is the box of its one object
    ],
)
def test_errors_are_those_of_the_object_that_is_found(predictions, count, pixels):
    target = face([[x, y, 2.0] for x, y in EXACT], id=1)
    metrics = pose_task(PAIR).metrics()
    for dx, box, score in predictions:
        prediction = prediction_of([[x + dx, y] for x, y in EXACT], box, score)
        metrics.update([replace(prediction, size=(100, 100))], [target])
    values = metrics.compute()
    assert values.get("keypoints", {}).get("count", [0] * 3) == [count] * 3
    assert values.get("pixel_error") == (None if pixels is None else pytest.approx(pixels))


def test_objects_of_several_processes(monkeypatch):
    """The two of the first image are in different processes, and are evaluated together."""
    annotations = people()
    target = target_of([a for a in annotations if a["image_id"] == 1])

    def metrics_of(indices):
        metrics = pose_task().metrics()
        for i in indices:
            points, box = target.keypoints[i, :, :2] + 3, target.boxes[i].tolist()
            metrics.update([prediction_of(points.tolist(), box, 0.9 - 0.1 * i)], [target])
        return metrics

    expected = metrics_of([0, 1, 2]).compute()
    first, second = metrics_of([0, 2]), metrics_of([1])
    assert first.compute() != expected

    gathered = []

    def gather(parts, own):  # of the objects; then of the images, which all processes have
        parts[:] = [own, own] if gathered else [own, second.objects]
        gathered.append(own)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    values = first.compute()
    assert {key: values[key] for key in KEYS} == {key: expected[key] for key in KEYS}
    assert values["nme"] == pytest.approx(expected["nme"])
    assert values["keypoints"]["count"] == expected["keypoints"]["count"]


def test_boxes_of_score_zero_are_no_detections():
    """Their image counts as one whose objects are missed."""
    (prediction, target), *_ = faces()
    metrics = pose_task(PAIR).metrics()
    metrics.update([prediction], [target])
    alone = metrics.compute()["keypoint_ar"]
    missed = face([[10.0, 5.0, 2.0], [40.0, 45.0, 1.0], [20.0, 20.0, 2.0]], id=9)
    exact = prediction_of([[10.0, 5.0], [40.0, 45.0], [20.0, 20.0]], BOX, 0.0)
    metrics.update([exact], [missed])
    assert metrics.compute()["keypoint_ar"] == pytest.approx(alone / 2)
