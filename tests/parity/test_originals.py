"""Files of Detectron2 and MMDetection give what those say themselves: detections, and losses for the same regions.

The references are written by tools/make_detector_references.py.
"""

import json
import pickle

import pytest
import torch
from make_detector_references import BOXES, FOLDER, LABELS, SIZE, keypoints, masks, picture
from torch import nn
from torchvision.ops import box_iou

import vertebra
from vertebra import pictures
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state
from vertebra.structures import Points, Preprocess, Target
from vertebra.tasks import preprocess_of

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LAST = ("box.classify", "box.deltas", "mask.logits")


def state(reference):
    """Detectron2's models hold the mean and deviation of their pictures too."""
    known = {name: torch.tensor(values).view(shape) for name, shape, *values in reference["state"] if values}
    made = fabricate_state([row for row in reference["state"] if len(row) == 2], reference["gain"])
    return {row[0]: (known | made)[row[0]] for row in reference["state"]}


def file(name, reference, folder):
    """As the library writes it: of Detectron2, every other as in its model zoo."""
    tensors = state(reference)
    if name.startswith("detectron2") and NAMES.index(name) % 2:
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        (folder / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2"}))
        return folder / "model.pkl"
    torch.save({"model" if name.startswith("detectron2") else "state_dict": tensors}, folder / "model.pth")
    return folder / "model.pth"


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"backbone.bottom_up.res3.0.conv2_offset.weight": (18, 128, 3, 3)},
            r"mask_rcnn over resnet18 is not: backbone\.stages\.1\.0\.conv2_offset\.weight has no place in it\.",
        ),
        (
            {f"proposal_generator.rpn_head.{each}": (64, 32, 3, 3) for each in ("conv.weight", "extra.weight")},
            r"rpn\.convs\.0\.conv\.weight is \[64, 32, 3, 3\], not \[32, 32, 3, 3\], as 1 more",
        ),
        ({"roi_heads.box_predictor.bbox_pred.weight": (4, 64)}, r"box\.deltas\.weight is \[4, 64\], not \[12, 64\]"),
    ],
)
def test_a_detector_with_other_parts_is_refused(changes, sentence, tmp_path):
    tensors = state(read("detectron2-mask_rcnn")) | {name: torch.zeros(shape) for name, shape in changes.items()}
    torch.save({"model": tensors}, tmp_path / "model.pth")
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth")


def test_other_classes_only_change_the_last_layers(tmp_path):
    torch.save({"model": state(read("detectron2-mask_rcnn"))}, tmp_path / "model.pth")
    model = vertebra.create("instance", backbone="resnet18", classes=5, weights=tmp_path / "model.pth")
    new = {name for name in model.report.new if not name.endswith("num_batches_tracked")}
    assert new == {f"{part}.{kind}" for part in LAST for kind in ("weight", "bias")}


def test_options_that_reshape_are_the_users_own(tmp_path):
    torch.save({"model": state(read("detectron2-keypoint_rcnn"))}, tmp_path / "model.pth")
    points = Points(("left", "right"), flip=(1, 0))
    model = vertebra.create("keypoints", backbone="resnet18", classes=1, points=points, weights=tmp_path / "model.pth")
    assert model.report.left_out["keypoint.logits.bias"] == "its shape is [17], the model's [2]"
    torch.save({"model": state(read("detectron2-mask_rcnn"))}, tmp_path / "model.pth")
    for options in ({"masks": "agnostic"}, {"anchor_ratios": (0.3, 0.5, 1.0, 2.0)}, {"norm": "group"}):
        vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth", **options)


def test_another_method_than_the_files_takes_what_both_have(tmp_path):
    torch.save({"model": state(read("detectron2-mask_rcnn_gn"))}, tmp_path / "model.pth")
    model = vertebra.create("detection", method="retinanet", weights=tmp_path / "model.pth")
    assert model.config.rpn_convs == 1
    assert any(name.startswith("backbone.") for name in model.report.used)


def test_a_dense_detector_is_none_of_instances(tmp_path):
    torch.save({"model": state(read("detectron2-retinanet"))}, tmp_path / "model.pth")
    with pytest.raises(
        VertebraError,
        match=r"model\.pth: this is of a RetinaNet, which finds boxes alone: it fits detection, not instance",
    ):
        vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth")


def test_training_prepares_pictures_as_the_source_does(tmp_path):
    torch.save({"state_dict": state(read("mmdet-faster_rcnn"))}, tmp_path / "model.pth")
    prepared = preprocess_of("detection", "resnet18", tmp_path / "model.pth")
    assert (prepared.antialias, prepared.rounding) == (False, "nearest")


def test_pictures_are_scaled_as_the_source_scales_them(tmp_path):
    torch.save({"model": state(read("detectron2-mask_rcnn"))}, tmp_path / "model.pth")
    model = vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth")
    assert (model.preprocess.antialias, model.preprocess.rounding) == (True, "nearest")
    assert pictures.frame((427, 640), model.preprocess).scaled == (800, 1199)  # 1199.06
    assert pictures.frame((480, 640), model.preprocess).scaled == (800, 1067)  # 1066.67
    usual = vertebra.create("instance", backbone="resnet18").preprocess
    assert pictures.frame((480, 640), usual).scaled == (800, 1066)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "source='mmdet' says whose names weights bear, but no weights are given"),
        ({"weights": "resnet18.a1_in1k"}, r"resnet18\.a1_in1k is of timm, not of mmdet; leave source out"),
    ],
)
def test_a_source_that_says_nothing_is_refused(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("detection", backbone="resnet18", source="mmdet", **options)


def test_our_own_files_need_no_source(tmp_path):
    model = vertebra.create("classification", backbone="resnet18", classes=2)
    checkpoint.save(model, tmp_path / "own.safetensors")
    with pytest.raises(VertebraError, match=r"own\.safetensors was written by Vertebra, not by timm; leave source out"):
        vertebra.create("classification", backbone="resnet18", weights=tmp_path / "own.safetensors", source="timm")


@pytest.mark.parametrize("name", NAMES)
def test_original(name, tmp_path, monkeypatch):
    reference = read(name)
    options = {"detections": 20}
    if name.endswith("c4"):
        options |= {"proposals_train": 60, "proposals_test": 60}
    elif name.startswith("mmdet") and name != "mmdet-retinanet":
        options["proposals_train"] = 60
    if name.startswith("detectron2") and name.endswith("c4"):
        options["rpn_batch"] = 647
    path = file(name, reference, tmp_path)
    model = vertebra.create(
        reference["task"],
        backbone=reference["backbone"],
        weights=path,
        source=reference["source"],
        preprocess=Preprocess((SIZE[0], 1000), resize="shortest"),
        **options,
    )
    path.unlink()
    missing = [*model.report.left_out, *model.report.new]
    assert all(name.endswith(("num_batches_tracked", "pixel_mean", "pixel_std")) for name in missing), missing

    found = model.predict(picture())
    found = found[0] if isinstance(found, list) else found
    boxes = torch.tensor(reference["boxes"]).view(-1, 4)
    assert len(found.boxes) == len(boxes) == 20
    # Equal scores may be in another order.
    same = box_iou(boxes, found.boxes) * (torch.tensor(reference["labels"])[:, None] == found.labels)
    same = same - (torch.tensor(reference["scores"])[:, None] - found.scores).abs()
    order = same.argmax(1)
    assert sorted(order.tolist()) == list(range(20))
    assert torch.allclose(found.boxes[order], boxes, atol=0.01)
    assert torch.allclose(found.scores[order], torch.tensor(reference["scores"]), atol=1e-4)
    assert found.labels[order].tolist() == reference["labels"]
    if "masks" in reference:
        areas = found.masks.dense().flatten(1).sum(1)[order]
        assert areas.tolist() == pytest.approx(reference["masks"], rel=0.002, abs=2)
    if "keypoints" in reference:
        theirs = torch.tensor(reference["keypoints"]).view(20, -1, 2)
        assert torch.allclose(found.keypoints[order][..., :2], theirs, atol=0.05)

    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    target = Target(boxes=torch.tensor(BOXES), labels=torch.tensor(LABELS), size=SIZE)
    if reference["task"] == "instance":
        target.masks = masks()
    if reference["task"] == "keypoints":
        target.labels, target.keypoints = torch.zeros(3, dtype=torch.int64), keypoints()
    batch = pictures.batched([pictures.prepare(picture(), model.preprocess)], model.preprocess)
    with torch.no_grad():
        losses = {key: float(value) for key, value in model.loss(batch, [target]).items()}
    assert losses.keys() >= reference["losses"].keys()
    losses = {key: losses[key] for key in reference["losses"]}
    assert losses == pytest.approx(reference["losses"], rel=1e-3)
