"""Files of what was found are read by other tools as they were meant."""

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
from vertebra.predict.results import Numbers, Results, entries
from vertebra.structures import Masks, Prediction


def quiet(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def judged(truth, found, kind):
    """COCO's twelve numbers (ten of keypoints), by its own tool."""
    data = quiet(COCO, str(truth))
    evaluation = COCOeval(data, quiet(data.loadRes, str(found)), kind)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quiet(step)
    return evaluation.stats


def truths(path, categories):
    """Each picture of a COCO file as a Prediction that is right, by its number and name."""
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
            # COCO's tool takes those without keypoints for false, so they come last.
            scores=torch.tensor([0.9 if a.get("num_keypoints", 1) else 0.0 for a in annotations]),
            masks=masks,
            keypoints=keypoints,
            size=size,
            id=image["id"],
            path=image["file_name"],
        )


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bccd/annotations/instances_val.json", ("bbox",)),
        ("nuclei/annotations/instances_val.json", ("bbox", "segm")),
        ("coco128/annotations/instances_val.json", ("bbox", "segm")),
        ("keypoints/annotations/person_keypoints.json", ("bbox", "segm", "keypoints")),
    ],
)
def test_a_data_sets_own_truth_scores_one(tmp_path, data_folder, name, kinds):
    truth = data_folder / name
    classes = [c["name"] for c in sorted(json.loads(truth.read_text())["categories"], key=lambda c: c["id"])]
    numbers = Numbers.read(truth, classes)
    with Results(tmp_path, classes, numbers) as results:
        for i, prediction in enumerate(truths(truth, list(numbers.categories))):
            if "nuclei" not in name or i < 20:
                results.add(prediction, 0, "x.png")
    if "nuclei" in name:  # the first pictures only, to be quick
        content = json.loads(truth.read_text())
        content["images"] = json.loads((tmp_path / "images.json").read_text())["images"]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        truth = tmp_path / "truth.json"
        truth.write_text(json.dumps(content))
    for kind in kinds:
        most = 1.0 if "nuclei" not in name else 0.9  # more than the hundred a picture that COCO's tool counts
        stats = judged(truth, tmp_path / "predictions.json", kind)
        assert most <= stats[0] <= 1.0 + 1e-9, (kind, stats)
        if "nuclei" not in name:
            assert stats[0] == pytest.approx(1.0, abs=1e-6)


def one(**fields):
    return Prediction(
        boxes=torch.tensor([[2.0, 1.0, 5.0, 3.0]]), labels=torch.tensor([1]), scores=torch.tensor([0.75]), **fields
    )


def test_an_entry():
    crop = torch.tensor([[True, True, False], [False, True, True]])
    prediction = one(
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


def test_what_is_not_there_is_not_written():
    assert entries(one(), 1, (1, 2))[0].keys() == {"image_id", "category_id", "bbox", "score"}
    empty = Prediction(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0))
    assert entries(empty, 1, (1, 2)) == []


def test_the_files(tmp_path):
    with Results(tmp_path, ("cat", "dog"), Numbers.plain(("cat", "dog"))) as results:
        results.add(one(path="a/1.png", size=(30, 40)), 1, "1.png")
        results.add(one(path="a/2.png", size=(30, 40), id=0), 2, "2.png")
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in found] == [(1, 2), (0, 2)]
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


def test_nothing_found_is_an_empty_list(tmp_path):
    with Results(tmp_path, ("cat",), Numbers.plain(("cat",))):
        pass
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_files_that_are_not_finished_are_not_there(tmp_path):
    (tmp_path / "predictions.json").write_text("before")
    results = Results(tmp_path, ("cat", "dog"), Numbers((1, 2))).__enter__()
    results.add(one(), 1, "1.png")
    results.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "before"


CONTENT = {
    "images": [{"id": 7, "file_name": "val/1.png"}, {"id": 8, "file_name": "1.png"}, {"id": 9, "file_name": "2.png"}],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
}


def test_numbers_of_a_data_set(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    numbers = Numbers.read(tmp_path / "a.json", ["cat", "dog"])
    assert numbers.categories == (3, 90)
    assert numbers.of(tmp_path / "val" / "1.png") == 7
    assert numbers.of(tmp_path / "1.png") == 8
    assert numbers.of_all([tmp_path / "2.png", tmp_path / "1.png"]) == [9, 8]
    with pytest.raises(VertebraError, match=r"a/2\.png and .*b/2\.png would both be picture 9 of"):
        numbers.of_all([tmp_path / "a/2.png", tmp_path / "b/2.png"])
    assert numbers.of(tmp_path / "train" / "2.png") == 9
    with pytest.raises(VertebraError, match=r"3\.png is not among the 3 pictures of .*a\.json\."):
        numbers.of(tmp_path / "3.png")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "a.json is not valid JSON"),
        ("[]", "a.json is no COCO annotation file: it needs images with file_name and id"),
        (json.dumps({"images": []}), "is no COCO annotation file"),
        (json.dumps({**CONTENT, "images": [{"id": 1}]}), "is no COCO annotation file"),
        (
            json.dumps({**CONTENT, "categories": [{"id": 1, "name": "cats"}]}),
            "no category 'cat', which the model finds",
        ),
    ],
)
def test_annotations_that_are_none(tmp_path, content, sentence):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(VertebraError) as error:
        Numbers.read(tmp_path / "a.json", ["cat"])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_annotations_that_are_not_there(tmp_path):
    with pytest.raises(VertebraError, match=r"a\.json cannot be read \(No such file"):
        Numbers.read(tmp_path / "a.json", ["cat"])
