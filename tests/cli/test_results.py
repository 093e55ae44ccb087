"""`vertebra evaluate` on COCO results of other tools."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image

from vertebra.kinds import coco_results

POINTS = ["left", "right"]
SPOTS = ((3, 5, 5), (8, 30, 10))  # of an object of either category: its number, x, y


@pytest.fixture
def data(tmp_path) -> Path:
    """A COCO folder of three images of 60 x 40 pixels and two categories, numbered with gaps."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, numbers in (("train", (4,)), ("val", (7, 12, 30))):
        images, annotations = [], []
        for number in numbers:
            name = f"{number}.png"
            Image.new("RGB", (60, 40), (9 * number % 255, 90, 90)).save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": 60, "height": 40})
            for i, (x, y) in enumerate([(5, 5), (30, 10)] if number != 30 else []):
                annotations.append(
                    {
                        "id": 100 * number + i + 1,
                        "image_id": number,
                        "category_id": (3, 8)[i],
                        "bbox": [x, y, 20, 20],
                        "area": 400,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + 20, y, x + 20, y + 20, x, y + 20]],
                        "keypoints": [x + 2, y + 2, 2, x + 12, y + 12, 2],
                        "num_keypoints": 2,
                    }
                )
        categories = [
            {"id": n, "name": name, "keypoints": POINTS, "skeleton": [[1, 2]]} for n, name in ((3, "a"), (8, "b"))
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


def write(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def hit(number: int, category: int = 3, score: float = 0.9, **more) -> dict:
    x, y = (5, 5) if category == 3 else (30, 10)
    return {"image_id": number, "category_id": category, "score": score, **(more or {"bbox": [x, y, 20, 20]})}


def mask(x: int, y: int) -> dict:
    canvas = np.zeros((40, 60), np.uint8, order="F")
    canvas[y : y + 20, x : x + 20] = 1
    encoded = rle.encode(canvas)
    counts = encoded["counts"]
    return {"size": [40, 60], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def saved(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_boxes(data, tmp_path, run_vertebra):
    """Class a is detected in both images, class b in one of two; and the empty image has a false positive."""
    entries = [hit(7), hit(12, score=0.8), hit(7, 8, 0.7), hit(30, 8, 0.3)]
    words = ["evaluate", write(tmp_path / "results.json", entries), f"--data.path={data}", f"--save={tmp_path / 'out'}"]
    out = run_vertebra(*words)
    assert "box AP " in out
    assert "0.7525" in out  # (1 + 51 / 101) / 2
    made = saved(tmp_path / "out")
    assert made["metrics"]["box_ap"] == pytest.approx((1 + 51 / 101) / 2)
    assert made["metrics"]["threshold"] == pytest.approx(0.5)
    assert made["metrics"]["confusion"] == [[2, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert made["classes"] == ["a", "b"]
    assert [Path(row["path"]).name for row in made["images"]] == ["7.png", "12.png", "30.png"]
    assert [row["true_positives"] for row in made["images"]] == [2, 1, 0]
    assert [row["error"] for row in made["images"]] == pytest.approx([0, 1 / 3, 0])
    page = (tmp_path / "out/report.html").read_text()
    for heading in ("Precision and recall", "Score threshold", "Confusion matrix", "Classes", "Most wrong"):
        assert f"<h2>{heading}</h2>" in page
    assert "1 of 2 detected" in page
    assert page.count('class="pair"') == 1


def test_masks(data, tmp_path, run_vertebra):
    entries = [hit(7, segmentation=mask(5, 5)), hit(12, segmentation=[[5, 5, 25, 5, 25, 25, 5, 25]])]
    file = write(tmp_path / "results.json", entries)
    out = run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
    assert "boundary AP" in out
    made = saved(tmp_path / "out")["metrics"]
    assert made["mask_ap"] == made["boundary_ap"] == pytest.approx(0.5)
    assert made["per_class"]["mask_ap"] == pytest.approx([1, 0])
    assert "box_ap" not in made


def test_keypoints(data, tmp_path, run_vertebra):
    entries = [hit(n, keypoints=[7, 7, 1, 17, 17, 1]) for n in (7, 12)]
    file = write(tmp_path / "results.json", entries)
    run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
    assert saved(tmp_path / "out")["metrics"]["per_class"]["keypoint_ap"] == pytest.approx([1, 0])
    assert 'alt="prediction: 7.png"' in (tmp_path / "out/report.html").read_text()


def test_the_split_is_chosen_and_a_single_one_is_taken(data, tmp_path, run_vertebra):
    file = write(tmp_path / "results.json", [hit(4), hit(4, 8)])
    assert "1.0000" in run_vertebra("evaluate", file, f"--data.path={data}", "--data.split=train")
    alone = data / "annotations/instances_train.json"
    assert "1.0000" in run_vertebra("evaluate", file, f"--data.path={alone}")


def test_sigmas_are_the_datas_own(data, tmp_path, run_vertebra):
    """A keypoint 2 pixels off in an object of 400 is COCO's similarity exp(-4 / (2 sigma) ** 2 / 400 / 2)."""
    entries = [hit(n, c, keypoints=[x + 4, y + 2, 1, x + 14, y + 12, 1]) for n in (7, 12) for c, x, y in SPOTS]
    file = write(tmp_path / "results.json", entries)
    for sigma in (0.1, 0.04):  # similarities 0.88 and 0.46, of which AP's ten thresholds count eight and none
        for path in (data / "annotations").iterdir():
            content = json.loads(path.read_text())
            for category in content["categories"]:
                category["sigmas"] = [sigma, sigma]
            write(path, content)
        run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
        similarity = np.exp(-4 / (2 * sigma) ** 2 / 400 / 2)
        share = np.mean(np.arange(0.5, 1, 0.05) <= similarity)
        assert saved(tmp_path / "out")["metrics"]["keypoint_ap"] == pytest.approx(share)


def test_more_detections_than_cocos_hundred(data, tmp_path, run_vertebra, complaint):
    """The right answer comes after 100 wrong ones that are more certain."""
    wrong = [hit(7, score=0.95, bbox=[40, 20, 4, 4])] * 100
    entries = [*wrong, hit(7), hit(12), hit(7, 8), hit(12, 8)]
    words = ["evaluate", write(tmp_path / "results.json", entries), f"--data.path={data}", f"--save={tmp_path / 'out'}"]
    run_vertebra(*words)
    hundred = saved(tmp_path / "out")["metrics"]["per_class"]["box_ap"][0]
    run_vertebra(*words, "--max_detections=200")
    assert saved(tmp_path / "out")["metrics"]["per_class"]["box_ap"][0] > hundred
    sentence = complaint(*words[:3], "--data.batch_size=4", "--device=cpu")
    assert "--device, --data.batch_size: no model runs on COCO results" in sentence


def test_nothing_found(data, tmp_path, run_vertebra):
    out = run_vertebra(
        "evaluate", write(tmp_path / "results.json", []), f"--data.path={data}", f"--save={tmp_path / 'out'}"
    )
    assert "box AP" in out
    assert saved(tmp_path / "out")["metrics"]["box_ap"] == 0


def test_images_that_went_missing_since(data, tmp_path, run_vertebra):
    """They are not needed to judge, only to be shown."""
    (data / "images/12.png").unlink()
    file = write(tmp_path / "results.json", [hit(7), hit(12)])
    run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
    assert len(saved(tmp_path / "out")["images"]) == 3
    assert "12.png: there is no such file" in (tmp_path / "out/report.html").read_text()
    shutil.rmtree(data / "images")
    assert "0.5" in run_vertebra("evaluate", file, f"--data.path={data}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"annotations": []}, "is no file of COCO results, which is a list"),
        ([hit(7), 5], "entry 1 (counted from 0) is not an object but 5"),
        ([hit(7), {"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}], "entry 1 (counted from 0) has no score"),
        ([{"image_id": 7, "category_id": 3, "score": 1}], "entry 0 (counted from 0) has no bbox"),
        ([hit(7, bbox=[])], "entry 0 (counted from 0) has no bbox, segmentation or keypoints"),
        ([hit(7), hit(7, segmentation=[])], "entry 1 (counted from 0) has no bbox as others have"),
        ([hit(7, score="high")], "entry 0 (counted from 0): score is 'high', not a number"),
        ([hit(7, score=float("nan"))], "score is nan, not a number"),
        ([hit(7), hit(8)], "entry 1 (counted from 0): no image of the val split of"),
        ([hit(8)], "has image_id 8; there are 7, 12, 30."),
        ([hit(4)], "has image_id 4; it is in the train split."),
        ([hit("8")], "has image_id '8'"),
        ([hit([7])], "has image_id [7]"),
        ([hit(7, 1, bbox=[0, 0, 1, 1])], "has no category_id 1; there are 3, 8."),
        ([hit(7, bbox=[0, 0, 1])], "entry 0 (counted from 0): bbox is [0, 0, 1], not a list of 4 numbers"),
        ([hit(7, bbox=[0, 0, -1, 1])], "bbox is [0, 0, -1, 1], whose width or height is negative"),
        ([hit(7, keypoints=[1, 2, 3])], "keypoints is [1, 2, 3], not a list of 6 numbers"),
        ([hit(7, segmentation={"size": [9, 9], "counts": [81]})], "entry 0 (counted from 0): its mask is of size"),
        ([hit(7, segmentation=[[5, 5, 20, 20]])], "entry 0 (counted from 0): its polygon has 2 points, three or more"),
    ],
)
def test_wrong_results(data, tmp_path, complaint, content, expected):
    file = write(tmp_path / "results.json", content)
    sentence = complaint("evaluate", file, f"--data.path={data}")
    assert expected in sentence
    assert str(file) in sentence


def test_results_that_number_images_otherwise(data, tmp_path, complaint, run_vertebra):
    """Their numbers may be there in the data by chance."""
    file = write(tmp_path / "results.json", [hit(7), hit(12)])
    images = [{"id": 7, "file_name": "elsewhere/7.png"}, {"id": 12, "file_name": "elsewhere/30.png"}]
    write(tmp_path / "images.json", {"images": images, "categories": []})
    sentence = complaint("evaluate", file, f"--data.path={data}")
    assert (
        "entry 1 (counted from 0): image_id 12 is elsewhere/30.png according to the images.json beside it" in sentence
    )
    assert "predict with --annotations=FILE" in sentence
    images[1]["file_name"] = "12.png"
    write(tmp_path / "images.json", {"images": images, "categories": []})
    run_vertebra("evaluate", file, f"--data.path={data}")


def test_results_that_number_classes_otherwise(data, tmp_path, complaint, run_vertebra):
    file = write(tmp_path / "results.json", [hit(7), hit(7, 8)])
    images = [{"id": 7, "file_name": "7.png"}]
    write(tmp_path / "images.json", {"images": images, "categories": [{"id": 3, "name": "b"}, {"id": 8, "name": "a"}]})
    sentence = complaint("evaluate", file, f"--data.path={data}")
    assert (
        "entry 0 (counted from 0): category_id 3 is 'b' according to the images.json beside it, but 'a' in" in sentence
    )
    write(tmp_path / "images.json", {"images": images, "categories": [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}]})
    run_vertebra("evaluate", file, f"--data.path={data}")


def test_an_empty_mask_first_does_not_hide_the_others(data, tmp_path, run_vertebra):
    entries = [hit(12, segmentation=[], bbox=[0, 0, 1, 1]), hit(7, segmentation=mask(5, 5), bbox=[5, 5, 20, 20])]
    file = write(tmp_path / "results.json", entries)
    run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
    made = saved(tmp_path / "out")["metrics"]
    assert made["mask_ap"] > 0
    assert "box_ap" in made


def test_masks_on_data_of_boxes_alone(data, tmp_path, run_vertebra):
    path = data / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry.pop("segmentation"), entry.pop("keypoints")
    write(path, content)
    (data / "annotations/instances_train.json").unlink()
    entries = [hit(n, c, segmentation=mask(5, 5), bbox=hit(n, c)["bbox"]) for n in (7, 12) for c in (3, 8)]
    file = write(tmp_path / "results.json", entries)
    out = run_vertebra("evaluate", file, f"--data.path={data}", f"--save={tmp_path / 'out'}")
    assert "has no masks: the boxes alone are evaluated" in out
    assert saved(tmp_path / "out")["metrics"]["box_ap"] == pytest.approx(1)


def test_detections_are_not_of_keypoints(data, tmp_path, complaint):
    file = write(tmp_path / "results.json", [hit(7, keypoints=[7, 7, 1, 17, 17, 1])])
    assert "--max_detections is for boxes and masks" in complaint(
        "evaluate", file, f"--data.path={data}", "--max_detections=5"
    )


def test_results_have_no_views(data, tmp_path, complaint):
    file = write(tmp_path / "results.json", [hit(7, 3)])
    assert "--tta, --tile: no model runs on COCO results" in complaint(
        "evaluate", file, f"--data.path={data}", "--tta", "--tile=64"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--overlap=0.3",), "--overlap is for tiles: it needs --tile=PIXELS."),
        (
            ("--tta", "--data.workers=2"),
            "images are predicted on one by one: leave data.batch_size and data.workers out",
        ),
    ],
)
def test_options_of_views(data, complaint, words, sentence):
    assert sentence in complaint("evaluate", "best.safetensors", f"--data.path={data}", *words)


def test_wrong_files(data, tmp_path, complaint):
    assert "cannot be read (No such file" in complaint("evaluate", tmp_path / "gone.json", f"--data.path={data}")
    (tmp_path / "cut.json").write_text('[{"image_id": 7,')
    assert "cut.json, line 1: not valid JSON" in complaint("evaluate", tmp_path / "cut.json", f"--data.path={data}")
    file = write(tmp_path / "results.json", [hit(7)])
    assert "give --data.path" in complaint("evaluate", file)
    annotations = data / "annotations/instances_val.json"
    assert "these are annotations" in complaint("evaluate", annotations, f"--data.path={data}")


def test_pairs_of_detections_and_objects_are_bounded(data, tmp_path, monkeypatch, complaint):
    """Their similarities would take 20 gigabytes with 50,000 of both in an image."""
    monkeypatch.setattr(coco_results, "MAX_PAIRS", 1)
    file = write(tmp_path / "results.json", [hit(7), hit(7)])
    sentence = complaint("evaluate", file, f"--data.path={data}")
    assert "7.png has 2 detections and " in sentence
    assert "at most 1 pairs are compared. Keep the top-scoring detections" in sentence
