"""Evaluating any task, and the results of any tool."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from vertebra.data.catalogue import Sample
from vertebra.data.readers import read
from vertebra.engine import results
from vertebra.engine.evaluate import evaluate, evaluate_results
from vertebra.metrics.coco import KEYPOINT_NAMES, CocoMetrics
from vertebra.metrics.evaluation import SHOWN
from vertebra.structures import Masks, Points, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import report

POINTS = Points(("one",), sigmas=(0.1,))


class Shy(Task):
    """Finds a square where the picture is darker than 100, and says where by its score how dark it is."""

    name, best, truth = "shy", "box_ap", "masks"

    def __init__(self) -> None:
        super().__init__(None, ("square",), Preprocess(size=(32, 32), resize="fit", mean=(0.0,) * 3, std=(1.0,) * 3))
        self.weight = nn.Parameter(torch.zeros(1))

    def infer(self, images, frames):
        found = []
        for image, frame in zip(images, frames, strict=True):
            darkness = 1 - float(image[0, 5, 5])
            count = int(darkness > 0.6)
            height, width = frame.picture
            found.append(
                Prediction(
                    boxes=torch.tensor([[0.0, 0, 10, 10]] * count).reshape(-1, 4),
                    labels=torch.zeros(count).long(),
                    scores=torch.tensor([darkness] * count),
                    masks=Masks((height, width), [(0, 0)] * count, [torch.ones(10, 10).bool()] * count),
                )
            )
        return found

    def metrics(self):
        return CocoMetrics(1, ("box", "mask"), POINTS)


def samples(count: int) -> list[Sample]:
    """Pictures ever brighter, with a square each."""
    made = []
    for i in range(count):
        picture = torch.full((3, 32, 32), i * 255 // count, dtype=torch.uint8)
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[:10, :10] = True
        target = Target(boxes=torch.tensor([[0.0, 0, 10, 10]]), labels=torch.tensor([0]), id=i + 1, size=(32, 32))
        made.append(Sample(picture, target, (mask,)))
    return made


def test_a_task_that_finds_objects(tmp_path):
    pictures = samples(50)  # 20 are dark enough to be found
    found = evaluate(Shy(), pictures, batch_size=7, workers=0)
    assert found.metrics["box_ap"] == found.metrics["mask_ap"] == pytest.approx(41 / 101)  # recall 0.4
    assert [row["error"] for row in found.rows] == [0.0] * 20 + [1.0] * 30
    assert [row["index"] for row in found.rows] == list(range(50))
    assert found.classes == ("square",)
    assert found.points is POINTS
    assert list(found.numbers)[:3] == ["box AP", "box AP50", "box AP75"]
    assert sorted(found.predictions) == list(range(20, 20 + SHOWN))  # and no others
    report.save(tmp_path, title="squares", evaluation=found, samples=pictures)
    assert (tmp_path / "report.html").read_text().count('class="pair"') == SHOWN


def test_the_rows_are_at_the_threshold_of_the_checkpoint():
    found = evaluate(Shy(), samples(50), batch_size=50, workers=0, threshold=0.9)
    assert sum(row["found"] for row in found.rows) == 6  # as dark as 25 or less, of 255: i * 255 // 50 < 25.5
    assert {row["threshold"] for row in found.rows} == {0.9}
    assert found.metrics["threshold"] < 0.62  # the best one here


@pytest.mark.parametrize("name", ["oracle_case1_preds.json", "oracle_case2_preds.json", "example_coco_preds.json"])
def test_published_keypoint_scores(data_folder, name):
    """Of results in files, through our own reader."""
    folder = data_folder / "keypoints/annotations"
    wanted = json.loads((folder / "expected_oks.json").read_text())[name]["measured"]
    entries = results.read(folder / name)
    found = evaluate_results(name, entries, read(data_folder / "keypoints", want=results.want(entries)), "train")
    values = [found.metrics[f"keypoint_{key}"] for key, _ in KEYPOINT_NAMES]
    assert values == pytest.approx(list(wanted.values()), abs=1e-15)


@pytest.mark.parametrize("form", ["bbox", "segmentation"])
def test_real_photos_as_pycocotools_has_them(data_folder, tmp_path, capsys, form):
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    reference = COCO(str(data_folder / "coco128/annotations/instances_val.json"))
    generator = np.random.default_rng(3)
    entries = []
    for annotation in reference.anns.values():
        for step in generator.integers(0, 9, int(generator.integers(0, 3))).tolist():
            x, y, w, h = annotation["bbox"]
            moved = rle.encode(np.asfortranarray(np.roll(reference.annToMask(annotation), (step, step), (0, 1))))
            said = {"size": moved["size"], "counts": moved["counts"].decode()}
            form_said = {"bbox": [x + step, y + step, w, h]} if form == "bbox" else {"segmentation": said}
            category = annotation["category_id"] if step else int(generator.choice(reference.getCatIds()))
            score = float(np.round(generator.random(), 2))
            entries.append({"image_id": annotation["image_id"], "category_id": category, "score": score, **form_said})
    (tmp_path / "found.json").write_text(json.dumps(entries))
    evaluator = COCOeval(reference, reference.loadRes(entries), "bbox" if form == "bbox" else "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    entries = results.read(tmp_path / "found.json")
    found = evaluate_results("found.json", entries, read(data_folder / "coco128", want=results.want(entries)), "val")
    keys = [key for key in found.labels if key.startswith("box_" if form == "bbox" else "mask_")]
    assert len(keys) == 12
    assert [found.metrics[key] for key in keys] == pytest.approx(evaluator.stats.tolist(), abs=1e-9)
    assert 0.1 < found.metrics[keys[0]] < 0.9
