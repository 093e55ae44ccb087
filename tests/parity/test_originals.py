"""Files of Detectron2 and MMDetection give the detections of these libraries, and their losses for the same RoIs.

The references are written by tools/make_detector_references.py.
"""

import json
import pickle

import pytest
import torch
from make_detector_references import BOXES, FOLDER, LABELS, SIZE, image, keypoints, masks
from torch import nn
from torchvision.ops import box_iou

import vertebra
from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.images import frame_of, pad_batch, prepare
from vertebra.ledger.fabricate import fabricate_state
from vertebra.structures import KeypointSchema, Masks, Preprocess, Target

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LAST = ("box.classify", "box.deltas", "mask.logits")


def state(reference):
    """Detectron2's models also hold the mean and standard deviation of images."""
    known = {name: torch.tensor(values).view(shape) for name, shape, *values in reference["state"] if values}
    fabricated = fabricate_state([row for row in reference["state"] if len(row) == 2], reference["gain"])
    return {row[0]: (known | fabricated)[row[0]] for row in reference["state"]}


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
            r"mask_rcnn over resnet18: backbone\.stages\.1\.0\.conv2\.conv\.offset\.weight has no place in it\.",
        ),
        (
            {f"proposal_generator.rpn_head.{name}": (64, 32, 3, 3) for name in ("conv.weight", "extra.weight")},
            r"rpn\.convs\.0\.conv\.weight is \[64, 32, 3, 3\], not \[32, 32, 3, 3\], and 1 more",
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


def test_options_that_reshape_are_the_users_choice(tmp_path):
    torch.save({"model": state(read("detectron2-keypoint_rcnn"))}, tmp_path / "model.pth")
    schema = KeypointSchema(("left", "right"), flip_indices=(1, 0))
    model = vertebra.create(
        "keypoints", backbone="resnet18", classes=1, keypoints=schema, weights=tmp_path / "model.pth"
    )
    assert model.report.left_out["keypoint.logits.bias"] == "its shape is [17], the model's [2]"
    torch.save({"model": state(read("detectron2-mask_rcnn"))}, tmp_path / "model.pth")
    for options in ({"mask_head.kind": "agnostic"}, {"anchors.ratios": (0.3, 0.5, 1.0, 2.0)}, {"norm": "group"}):
        vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth", **options)


def test_another_method_than_the_files_takes_what_both_have(tmp_path):
    torch.save({"model": state(read("detectron2-mask_rcnn_gn"))}, tmp_path / "model.pth")
    model = vertebra.create("detection", method="retinanet", weights=tmp_path / "model.pth")
    assert model.method == "retinanet"
    assert any(name.startswith("backbone.") for name in model.report.used)


def test_a_dense_detector_does_not_fit_instance(tmp_path):
    torch.save({"model": state(read("detectron2-retinanet"))}, tmp_path / "model.pth")
    with pytest.raises(
        VertebraError,
        match=r"model\.pth: this is a checkpoint of retinanet: it fits detection, not instance",
    ):
        vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth")


def test_training_prepares_images_as_the_source_does(tmp_path):
    torch.save({"state_dict": state(read("mmdet-faster_rcnn"))}, tmp_path / "model.pth")
    preprocess = tasks.plan("detection", backbone="resnet18", weights=tmp_path / "model.pth").preprocess
    assert (preprocess.antialias, preprocess.rounding) == (False, "nearest")


def test_images_are_resized_as_the_source_resizes_them(tmp_path):
    torch.save({"model": state(read("detectron2-mask_rcnn"))}, tmp_path / "model.pth")
    model = vertebra.create("instance", backbone="resnet18", weights=tmp_path / "model.pth")
    assert (model.preprocess.antialias, model.preprocess.rounding) == (True, "nearest")
    assert frame_of((427, 640), model.preprocess).resized == (800, 1199)  # 1199.06
    assert frame_of((480, 640), model.preprocess).resized == (800, 1067)  # 1066.67
    usual = vertebra.create("instance", backbone="resnet18").preprocess
    assert frame_of((480, 640), usual).resized == (800, 1066)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "source='mmdet' names the library of a checkpoint, but no weights are given"),
        ({"weights": "resnet18.a1_in1k"}, r"resnet18\.a1_in1k is from timm, not from mmdet; leave source out"),
    ],
)
def test_a_source_without_its_file_is_refused(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("detection", backbone="resnet18", source="mmdet", **options)


def test_our_own_files_need_no_source(tmp_path):
    model = vertebra.create("classification", backbone="resnet18", classes=2)
    checkpoint.save(model, tmp_path / "own.safetensors")
    with pytest.raises(VertebraError, match=r"own\.safetensors was written by Vertebra, not by timm; leave source out"):
        vertebra.create("classification", backbone="resnet18", weights=tmp_path / "own.safetensors", source="timm")


@pytest.mark.parametrize(
    ("name", "method", "classes", "head_norm", "extra_levels"),
    [
        ("mmdet-atss", "atss", 3, "group", "pyramid"),
        ("mmdet-atss_plain", "atss", 5, "none", "pyramid"),
        ("mmdet-reppoints", "reppoints", 4, "none", "backbone"),
        ("mmdet-reppoints_gn", "reppoints", 3, "group", "backbone"),
        ("mmdet-reppoints_v2_giou", "reppoints_v2", 3, "group", "backbone"),
    ],
)
def test_a_file_alone_gives_the_model(name, method, classes, head_norm, extra_levels, tmp_path):
    reference = read(name)
    model = vertebra.create("detection", weights=file(name, reference, tmp_path))
    assert (model.method, model.config.backbone, len(model.classes)) == (method, reference["backbone"], classes)
    assert (model.config.head_norm, model.config.extra_levels.source) == (head_norm, extra_levels)


@pytest.mark.parametrize(
    ("name", "method", "modulated", "groups", "last"),
    [
        ("detectron2-mask_rcnn_dconv", "mask_rcnn", False, 1, False),
        ("detectron2-retinanet_mdconv", "retinanet", True, 2, True),
        ("mmdet-mask_rcnn_dconv", "mask_rcnn", False, 1, False),
        ("mmdet-faster_rcnn_mdconv", "faster_rcnn", True, 4, False),
        ("mmdet-cascade_rcnn_dconv", "cascade_rcnn", False, 1, False),
    ],
)
def test_deformable_convolutions_are_read_off_the_file(name, method, modulated, groups, last, tmp_path):
    reference = read(name)
    model = vertebra.create(reference["task"], weights=file(name, reference, tmp_path))
    config = model.backbone.config
    assert (model.method, model.config.backbone, len(model.classes)) == (method, reference["backbone"], 3)
    assert config.dcn_stages == ((False, False, False, True) if last else (False, True, True, True))
    assert (config.dcn_modulated, config.dcn_groups) == (modulated, groups)
    assert not [name for name in model.report.new if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", NAMES)
def test_original(name, tmp_path, monkeypatch):
    reference = read(name)
    options = {"max_detections": 20, **reference.get("options", {})}
    if name.endswith("c4"):
        options |= {"rpn_post_nms_top_n_train": 60, "rpn_post_nms_top_n_test": 60}
    elif name.startswith("mmdet") and any(row[0].startswith("rpn_head.rpn_cls.") for row in reference["state"]):
        options["rpn_post_nms_top_n_train"] = 60
    if name.startswith("detectron2") and name.endswith("c4"):
        options["rpn_batch_size"] = 647
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

    (prediction,) = model.predict(image())
    boxes = torch.tensor(reference["boxes"]).view(-1, 4)
    assert len(prediction.boxes) == len(boxes) == 20
    # Equal scores may be in another order.
    same = box_iou(boxes, prediction.boxes) * (torch.tensor(reference["labels"])[:, None] == prediction.labels)
    same = same - (torch.tensor(reference["scores"])[:, None] - prediction.scores).abs()
    order = same.argmax(1)
    assert sorted(order.tolist()) == list(range(20))
    assert torch.allclose(prediction.boxes[order], boxes, atol=0.01)
    assert torch.allclose(prediction.scores[order], torch.tensor(reference["scores"]), atol=1e-4)
    assert prediction.labels[order].tolist() == reference["labels"]
    if "masks" in reference:
        areas = prediction.masks.dense().flatten(1).sum(1)[order]
        assert areas.tolist() == pytest.approx(reference["masks"], rel=0.002, abs=2)
    if "keypoints" in reference:
        theirs = torch.tensor(reference["keypoints"]).view(20, -1, 2)
        assert torch.allclose(prediction.keypoints[order][..., :2], theirs, atol=0.05)

    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    target = Target(boxes=torch.tensor(BOXES), labels=torch.tensor(LABELS), size=SIZE)
    if reference["task"] == "instance":
        target.masks = Masks.from_dense(masks())
    if reference["task"] == "keypoints":
        target.labels, target.keypoints = torch.zeros(3, dtype=torch.int64), keypoints()
    batch = pad_batch([prepare(image(), model.preprocess)], model.preprocess)
    with torch.no_grad():
        losses = {key: float(value) for key, value in model.loss(batch, [target]).items()}
    assert losses.keys() >= reference["losses"].keys()
    losses = {key: losses[key] for key in reference["losses"]}
    assert losses == pytest.approx(reference["losses"], rel=1e-3)
