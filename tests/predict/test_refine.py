"""Masks of predictions are refined, by the Predictor and by the commands that use it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image

import vertebra
from vertebra import tasks
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.images import read_image
from vertebra.ops.patches import boundary_patches, paste
from vertebra.refine import Refiner
from vertebra.structures import Preprocess

RECTANGLES = ((4, 4, 40, 30, 200), (50, 10, 90, 60, 202), (60, 70, 80, 90, 201))
PATCH = 16


@pytest.fixture(scope="module")
def eraser(tmp_path_factory):
    """A refinement network that answers background for every pixel, and the path of its checkpoint."""
    small = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}, "channels": 8}
    preprocess = replace(tasks.plan("refinement", **small).preprocess, size=(32, 32))
    task = vertebra.create("refinement", **small, patch_size=PATCH, preprocess=preprocess)
    (classifier,) = [m for m in task.decoder.modules() if getattr(m, "out_channels", 0) == 2]
    torch.nn.init.zeros_(classifier.weight)
    with torch.no_grad():
        classifier.bias.copy_(torch.tensor([5.0, -5.0]))
    path = tmp_path_factory.mktemp("eraser") / "best.safetensors"
    checkpoint.save(task, path)
    return task, path


@pytest.fixture
def photo(tmp_path):
    pixels = np.zeros((100, 100, 3), np.uint8)
    for x1, y1, x2, y2, value in RECTANGLES:
        pixels[y1:y2, x1:x2] = value
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def erased(mask):
    """Without what lies in its patches."""
    boxes = boundary_patches(mask, PATCH, 0.25)
    return paste(mask, boxes, torch.zeros(len(boxes), PATCH, PATCH))


@pytest.mark.parametrize("views", [{}, {"tta": True}, {"tile": 64}])
def test_masks_are_refined_in_pixels_of_the_original_image(make_detector, eraser, photo, tmp_path, views):
    make_detector(size=100)
    plain = vertebra.load(tmp_path / "detector", device="cpu")
    (before,) = plain.predict(photo, **views)
    predictor = vertebra.load(tmp_path / "detector", device="cpu", refine=eraser[1])
    (after,) = predictor.predict(photo, **views)
    assert len(before) == len(after) == 3
    for index in range(3):
        assert torch.equal(after.masks[index], erased(before.masks[index]))
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert torch.equal(
        predictor.merged(**views)(read_image(photo)).masks.dense(), torch.stack([after.masks[i] for i in range(3)])
    )


def test_a_refiner_with_options(make_detector, eraser, photo, tmp_path):
    make_detector(size=100)
    refiner = Refiner(eraser[0], patch_size=8)
    (prediction,) = vertebra.load(tmp_path / "detector", device="cpu", refine=refiner).predict(photo)
    assert refiner.counts.masks == len(prediction) == 3
    assert refiner.counts.patches > 0
    assert prediction.masks.areas().min() > 0  # smaller patches leave more


def test_what_cannot_refine_is_one_sentence(make_detector, eraser, tmp_path):
    make_detector("boxes")
    detector = tmp_path / "detector"
    with pytest.raises(VertebraError, match="refine is for models that predict masks; this one is for"):
        vertebra.load(detector, device="cpu", refine=eraser[1])
    make_detector()
    with pytest.raises(VertebraError, match="does not refine masks"):
        vertebra.load(detector, device="cpu", refine=detector)
    grey = Preprocess(size=(32, 32), resize="squash", mean=(0.5, 0.5), std=(0.5, 0.5))
    task = vertebra.create("refinement", backbone="resnet18", preprocess=grey)
    with pytest.raises(VertebraError, match="takes images of 1 channels, the model 3"):
        vertebra.load(detector, device="cpu", refine=Refiner(task))
    with pytest.raises(VertebraError, match="refine needs the model's checkpoint"):
        vertebra.evaluate(vertebra.load(detector, device="cpu"), data="shapes", refine=eraser[1])


def test_predict_from_the_command_line(make_detector, eraser, photo, tmp_path, capsys):
    make_detector(size=100)
    for folder, words in (("plain", []), ("refined", [f"--refine={eraser[1]}"])):
        assert main(["predict", str(tmp_path / "detector"), str(photo), f"--save={tmp_path / folder}", *words]) == 0
    plain, refined = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("plain", "refined"))
    for before, after in zip(plain, refined, strict=True):
        masks = [torch.from_numpy(rle.decode(entry.pop("segmentation"))).bool() for entry in (before, after)]
        assert torch.equal(masks[1], erased(masks[0]))
        assert before == after
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "detector"), str(photo), "--refine=gone.safetensors"]) == 2
    assert "gone.safetensors" in capsys.readouterr().err


def test_evaluate_judges_the_refined_masks(make_detector, eraser, photo, tmp_path, monkeypatch, capsys):
    from vertebra.metrics.coco import CocoMetrics

    detector = make_detector(size=100)
    monkeypatch.setattr(type(detector.task), "metrics", lambda self, **options: CocoMetrics(2, ("mask", "box")))
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "images" / "photo.png").write_bytes(photo.read_bytes())
    content = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "even"}, {"id": 2, "name": "odd"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1 + value % 2,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
            for i, (x1, y1, x2, y2, value) in enumerate(RECTANGLES)
        ],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    plain = vertebra.evaluate(tmp_path / "detector", data=folder, device="cpu").metrics
    refined = vertebra.evaluate(tmp_path / "detector", data=folder, device="cpu", refine=eraser[1]).metrics
    assert plain["mask_ap"] == plain["box_ap"] == refined["box_ap"] == pytest.approx(1)
    assert refined["mask_ap"] < 0.1
    predictor = vertebra.load(tmp_path / "detector", device="cpu", refine=eraser[1])
    assert vertebra.evaluate(predictor, data=folder).metrics["mask_ap"] == refined["mask_ap"]
    words = ["evaluate", str(tmp_path / "detector"), f"--data.path={folder}", "--device=cpu", f"--refine={eraser[1]}"]
    assert main([*words, f"--save={tmp_path / 'out'}"]) == 0
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    assert saved["mask_ap"] == pytest.approx(refined["mask_ap"])
    assert main([*words, "--data.workers=1"]) == 2
    assert "with --tta, --tile, --refine or --detector, images are predicted on one by one" in capsys.readouterr().err
