"""Other tools read the written detections correctly."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.errors import VertebraError
from vertebra.kinds.coco_writer import CocoWriter, DatasetIds, entries
from vertebra.structures import Masks, Prediction


def quiet(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def evaluated(annotations, results, iou_type):
    """COCO's twelve numbers (ten of keypoints), by its own tool."""
    data = quiet(COCO, str(annotations))
    evaluation = COCOeval(data, quiet(data.loadRes, str(results)), iou_type)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quiet(step)
    return evaluation.stats


def ground_truth(path, categories):
    """The ground truth of each image of a COCO file as a Prediction."""
    data = quiet(COCO, str(path))
    order = sorted(data.getCatIds()) if categories is None else categories
    for image in data.loadImgs(data.getImgIds()):
        annotations = [a for a in data.loadAnns(data.getAnnIds(image["id"])) if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        size = (image["height"], image["width"])
        masks = None
        if annotations and "segmentation" in annotations[0]:
            masks = Masks(size)
            for annotation in annotations:
                mask = data.annToMask(annotation).astype(bool)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                masks.corners.append((int(columns[0]), int(rows[0])))
                crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                masks.crops.append(torch.from_numpy(crop.copy()))
        keypoints = None
        if annotations and "keypoints" in annotations[0]:
            keypoints = torch.tensor([a["keypoints"] for a in annotations], dtype=torch.float32)
            keypoints = keypoints.reshape(len(annotations), -1, 3)
        yield Prediction(
            boxes=boxes,
            labels=torch.tensor([order.index(a["category_id"]) for a in annotations], dtype=torch.int64),
            # COCO's tool counts those without keypoints as false positives, so they come last.
            scores=torch.tensor([0.9 if a.get("num_keypoints", 1) else 0.0 for a in annotations]),
            masks=masks,
            keypoints=keypoints,
            size=size,
            id=image["id"],
            path=image["file_name"],
        )


@pytest.mark.parametrize(
    ("name", "iou_types"),
    [
        ("bccd/annotations/instances_val.json", ("bbox",)),
        ("nuclei/annotations/instances_val.json", ("bbox", "segm")),
        ("coco128/annotations/instances_val.json", ("bbox", "segm")),
        ("keypoints/annotations/person_keypoints.json", ("bbox", "segm", "keypoints")),
    ],
)
def test_ground_truth_scores_one(tmp_path, data_folder, name, iou_types):
    file = data_folder / name
    classes = [c["name"] for c in sorted(json.loads(file.read_text())["categories"], key=lambda c: c["id"])]
    ids = DatasetIds.read(file, classes)
    with CocoWriter(tmp_path, classes, ids) as writer:
        for i, prediction in enumerate(ground_truth(file, list(ids.categories))):
            if "nuclei" not in name or i < 20:
                writer.add(prediction, 0, "x.png")
    if "nuclei" in name:  # the first images only, to be quick
        content = json.loads(file.read_text())
        content["images"] = json.loads((tmp_path / "images.json").read_text())["images"]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        file = tmp_path / "annotations.json"
        file.write_text(json.dumps(content))
    for iou_type in iou_types:
        minimum = 1.0 if "nuclei" not in name else 0.9  # with more objects than the 100 per image that COCO counts
        stats = evaluated(file, tmp_path / "predictions.json", iou_type)
        assert minimum <= stats[0] <= 1.0 + 1e-9, (iou_type, stats)
        if "nuclei" not in name:
            assert stats[0] == pytest.approx(1.0, abs=1e-6)


def single(**fields):
    return Prediction(
        boxes=torch.tensor([[2.0, 1.0, 5.0, 3.0]]), labels=torch.tensor([1]), scores=torch.tensor([0.75]), **fields
    )


def test_an_entry():
    crop = torch.tensor([[True, True, False], [False, True, True]])
    prediction = single(
        masks=Masks((4, 7), [(2, 1)], [crop]), keypoints=torch.tensor([[[2.5, 1.0, 0.9], [4.0, 2.0, 0.1]]])
    )
    (entry,) = entries(prediction, 17, (1, 90))
    mask = np.zeros((4, 7), np.uint8)
    mask[1:3, 2:5] = crop.numpy()
    assert np.array_equal(rle.decode(entry.pop("segmentation")), mask)
    assert entry == {
        "image_id": 17,
        "category_id": 90,
        "bbox": [2.0, 1.0, 3.0, 2.0],
        "score": 0.75,
        "keypoints": pytest.approx([2.5, 1.0, 0.9, 4.0, 2.0, 0.1], abs=1e-3),
    }
    assert json.dumps(entries(prediction, 17, (1, 90)))


def test_masks_and_keypoints_are_optional():
    assert entries(single(), 1, (1, 2))[0].keys() == {"image_id", "category_id", "bbox", "score"}
    empty = Prediction(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0))
    assert entries(empty, 1, (1, 2)) == []


def test_the_files(tmp_path):
    with CocoWriter(tmp_path, ("cat", "dog")) as writer:
        writer.add(single(path="a/1.png", size=(30, 40)), 1, "1.png")
        writer.add(single(path="a/2.png", size=(30, 40), id=0), 2, "2.png")
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in results] == [(1, 2), (0, 2)]
    assert json.loads((tmp_path / "images.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "a/1.png", "height": 30, "width": 40, "drawn": "1.png"},
            {"id": 0, "file_name": "a/2.png", "height": 30, "width": 40, "drawn": "2.png"},
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a/1.png", "a/2.png"]
    assert [rows[0][key] for key in ("class", "score", "x1", "y1", "x2", "y2")] == [
        "dog",
        "0.75",
        "2.0",
        "1.0",
        "5.0",
        "3.0",
    ]


def test_no_detections_are_an_empty_list(tmp_path):
    with CocoWriter(tmp_path, ("cat",)):
        pass
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_files_that_are_not_finished_are_not_there(tmp_path):
    (tmp_path / "predictions.json").write_text("before")
    writer = CocoWriter(tmp_path, ("cat", "dog"), DatasetIds((1, 2))).__enter__()
    writer.add(single(), 1, "1.png")
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "before"


CONTENT = {
    "images": [{"id": 7, "file_name": "val/1.png"}, {"id": 8, "file_name": "1.png"}, {"id": 9, "file_name": "2.png"}],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
}


def test_ids_of_a_dataset(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    ids = DatasetIds.read(tmp_path / "a.json", ["cat", "dog"])
    assert ids.categories == (3, 90)
    assert ids.of(tmp_path / "val" / "1.png") == 7
    assert ids.of(tmp_path / "1.png") == 8
    assert ids.of_all([tmp_path / "2.png", tmp_path / "1.png"]) == [9, 8]
    with pytest.raises(VertebraError, match=r"a/2\.png and .*b/2\.png would both be image 9 of"):
        ids.of_all([tmp_path / "a/2.png", tmp_path / "b/2.png"])
    assert ids.of(tmp_path / "train" / "2.png") == 9
    with pytest.raises(VertebraError, match=r"3\.png is not among the 3 images of .*a\.json\."):
        ids.of(tmp_path / "3.png")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "a.json, line 1: not valid JSON"),
        ("[]", "a.json is not a COCO annotation file: it has no list of images, with file_name"),
        (json.dumps({"images": []}), "a.json is not a COCO annotation file: it has no list of categories"),
        (json.dumps({**CONTENT, "images": [{"id": 1}]}), "a.json, image 1: it has no 'file_name'"),
        (json.dumps({**CONTENT, "images": [{"id": 1.5, "file_name": "a"}]}), "its id is 1.5, a whole number"),
        (json.dumps({**CONTENT, "categories": [{"id": True, "name": "cat"}]}), "its id is True, a whole number"),
        ("[" * 100_000, "nested too deeply"),
        (
            json.dumps({**CONTENT, "categories": [{"id": 1, "name": "cats"}]}),
            "no category 'cat', which the model detects",
        ),
    ],
)
def test_no_annotation_file(tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(VertebraError) as error:
        DatasetIds.read(tmp_path / "a.json", ["cat"])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_annotation_file(tmp_path):
    with pytest.raises(VertebraError, match=r"a\.json cannot be read \(No such file"):
        DatasetIds.read(tmp_path / "a.json", ["cat"])


def test_a_table_has_no_formulas(tmp_path):
    with CocoWriter(tmp_path, ("cat", "=cmd|' /C calc'!A0")) as writer:
        writer.add(single(path="=1.png", size=(30, 40)), 1, "1.png")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["class"]) == ("'=1.png", "'=cmd|' /C calc'!A0")
    assert json.loads((tmp_path / "images.json").read_text())["categories"][1]["name"] == "=cmd|' /C calc'!A0"
