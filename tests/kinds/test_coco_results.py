"""COCO's numbers of results in files, through our own reader."""

import json

import numpy as np
import pytest

from vertebra.kinds.coco_results import read_results
from vertebra.metrics.coco.evaluator import number_names


@pytest.mark.parametrize("name", ["oracle_case1_preds.json", "oracle_case2_preds.json", "example_coco_preds.json"])
def test_published_keypoint_scores(data_folder, name):
    folder = data_folder / "keypoints/annotations"
    expected = json.loads((folder / "expected_oks.json").read_text())[name]["measured"]
    results, catalogue = read_results(folder / name).open(data_folder / "keypoints")
    metrics = results.evaluate(catalogue, "train").metrics
    values = [metrics[key] for key, _ in number_names("keypoints", 20)]
    assert values == pytest.approx(list(expected.values()), abs=1e-15)


@pytest.mark.parametrize(("form", "iou_type"), [("bbox", "box"), ("segmentation", "mask")])
def test_real_photos_as_pycocotools_evaluates_them(data_folder, tmp_path, capsys, form, iou_type):
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
            mask = {"size": moved["size"], "counts": moved["counts"].decode()}
            geometry = {"bbox": [x + step, y + step, w, h]} if form == "bbox" else {"segmentation": mask}
            category = annotation["category_id"] if step else int(generator.choice(reference.getCatIds()))
            score = float(np.round(generator.random(), 2))
            entries.append({"image_id": annotation["image_id"], "category_id": category, "score": score, **geometry})
    (tmp_path / "results.json").write_text(json.dumps(entries))
    evaluator = COCOeval(reference, reference.loadRes(entries), "bbox" if form == "bbox" else "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    results, catalogue = read_results(tmp_path / "results.json").open(data_folder / "coco128")
    metrics = results.evaluate(catalogue, "val").metrics
    keys = [key for key, _ in number_names(iou_type, 100)]
    assert len(keys) == 12
    assert [metrics[key] for key in keys] == pytest.approx(evaluator.stats.tolist(), abs=1e-9)
    assert 0.1 < metrics[keys[0]] < 0.9
