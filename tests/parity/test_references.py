"""References of whole detectors, compared stage by stage; some are made here by torchvision."""

import json

import numpy as np
import pytest
import torch
import torchvision
from detectors import ORIGINALS, compare, fabricated, outputs_of, read

from vertebra.heads import anchors
from vertebra.ledger.fabricate import fabricated_input

GAIN = {
    "": 1.0,
    "rpn.head.bbox_pred": 0.1,
    "rpn.head.cls_logits": 0.5,
    "roi_heads.box_predictor.cls_score": 2.0,
    "head.classification_head.cls_logits": 2.0,
    "head.regression_head.bbox_reg": 0.1,
}
MADE_HERE = ("tv_retinanet_resnet50_fpn", "tv_keypointrcnn_resnet50_fpn")
BOXES = [[5.0, 4.0, 40.0, 60.0], [30.0, 8.0, 78.0, 50.0]]
FIXED = [[2.0, 3.0, 70.0, 90.0], [20.0, 10.0, 50.0, 40.0]]


def write(folder, name, model, tensors, **about):
    """A reference as in vertebra.ledger's docstring; tests/parity/detectors.py has its options."""
    spec = {"id": name, "gain": GAIN, "norm": 1.0}
    spec |= {"state": [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()], "outputs": {}}
    spec |= {"input": {"shape": [1, 3, 64, 80], "seed": 0}, **about}
    arrays = {}
    for key, tensor in tensors.items():
        deviation = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
        spec["outputs"][key] = {"shape": list(tensor.shape), "array": key, "step": 1, "std": deviation}
        arrays[key] = tensor.detach().reshape(-1).numpy()
    (folder / f"{name}.json").write_text(json.dumps(spec))
    np.savez(folder / f"{name}.npz", **arrays)


def original(name, **options):
    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, min_size=96, max_size=128, **options)
    rows = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    model.load_state_dict(fabricated(json.dumps([rows, GAIN, 1.0])))
    return model.eval()


def losses(model, image, target, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count, device=None: torch.arange(count))
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        terms = model([image], [target])
        model.eval()
    return {f"loss.first.{key}": value for key, value in terms.items()}


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    model = original("retinanet_resnet50_fpn", num_classes=7, detections_per_img=15)
    image = 0.5 + 0.22 * fabricated_input((1, 3, 64, 80), 0)[0]
    patch = pytest.MonkeyPatch()
    with torch.no_grad():
        batch, _ = model.transform([image])
        maps = model.backbone(batch.tensors)
        tensors = {"transformed": batch.tensors} | {f"fpn.{key}": x for key, x in maps.items()}
        tensors |= {f"head.{key}": x for key, x in model.head(list(maps.values())).items()}
        tensors |= {f"detections.{key}": x for key, x in model([image])[0].items()}
        target = {"boxes": torch.tensor(BOXES), "labels": torch.tensor([3, 6])}
        tensors |= losses(model, image, target, patch)
    write(folder, "tv_retinanet_resnet50_fpn", model, tensors, target={"boxes": BOXES, "labels": [3, 6]})
    reference = read(folder / "tv_retinanet_resnet50_fpn.json")
    return reference, *outputs_of(reference)


def test_retinanet(retinanet):
    result = compare(*retinanet)
    assert not result.problems
    assert set(result.compared) == set(retinanet[0].spec["outputs"])
    assert {"fpn.p7", "head.cls_logits", "loss.first.bbox_regression", "detections.scores"} <= set(result.compared)


def test_a_wrong_detector_is_noticed(retinanet, monkeypatch):
    grid = anchors.anchor_grid
    monkeypatch.setattr(anchors, "anchor_grid", lambda *args, **named: grid(*args, **named) + 1)
    reference, *_ = retinanet
    problems = " ".join(compare(reference, *outputs_of(reference)).problems)
    assert "detections.boxes" in problems
    assert "loss.first.bbox_regression" in problems
    assert "head.cls_logits" not in problems


def test_unknown_outputs_are_named(retinanet, tmp_path):
    reference, *computed = retinanet
    spec = {**reference.spec, "outputs": {**reference.spec["outputs"]}}
    spec["outputs"]["fpn.p8"] = spec["outputs"]["fpn.p7"]
    (tmp_path / "tv_retinanet_resnet50_fpn.json").write_text(json.dumps(spec))
    arrays = reference.path.with_suffix(".npz")
    (tmp_path / "tv_retinanet_resnet50_fpn.npz").write_bytes(arrays.read_bytes())
    other = read(tmp_path / "tv_retinanet_resnet50_fpn.json")
    assert compare(other, *computed).problems == ["fpn.p8: no output of ours stands for it"]


@pytest.mark.slow
def test_keypoint_rcnn(tmp_path, monkeypatch):
    model = original(
        "keypointrcnn_resnet50_fpn",
        num_classes=2,
        box_detections_per_img=15,
        rpn_post_nms_top_n_test=100,
        rpn_post_nms_top_n_train=200,
        box_batch_size_per_image=64,
    )
    image = 0.5 + 0.22 * fabricated_input((1, 3, 64, 80), 0)[0]
    keypoints = np.random.default_rng(0).uniform(0, 60, (2, 17, 3))
    keypoints[..., 2] = keypoints[..., 2] > 20
    annotations = {"boxes": BOXES, "labels": [1, 1], "keypoints": keypoints.tolist()}
    target = {"boxes": torch.tensor(BOXES), "labels": torch.tensor([1, 1])}
    target["keypoints"] = torch.tensor(keypoints, dtype=torch.float32)
    with torch.no_grad():
        batch, _ = model.transform([image])
        maps = model.backbone(batch.tensors)
        heads, boxes = model.roi_heads, [torch.tensor(FIXED)]
        x = heads.box_head(heads.box_roi_pool(maps, boxes, batch.image_sizes))
        y = heads.keypoint_roi_pool(maps, boxes, batch.image_sizes)
        tensors = {"fixed.box_head": x, "fixed.keypoint_pool": y}
        tensors["fixed.keypoint_logits"] = heads.keypoint_predictor(heads.keypoint_head(y))
        tensors["fixed.class_logits"], tensors["fixed.box_regression"] = heads.box_predictor(x)
        tensors |= {f"detections.{key}": x for key, x in model([image])[0].items()}
        tensors |= losses(model, image, target, monkeypatch)
    write(tmp_path, "tv_keypointrcnn_resnet50_fpn", model, tensors, target=annotations, fixed_boxes=FIXED)
    reference = read(tmp_path / "tv_keypointrcnn_resnet50_fpn.json")
    result = compare(reference, *outputs_of(reference))
    assert not result.problems
    assert set(result.compared) == set(reference.spec["outputs"]) >= {"loss.first.loss_keypoint"}
    assert any("no counterpart" in remark for remark in result.remarks)


@pytest.mark.parametrize("name", [name for name in ORIGINALS if name not in MADE_HERE])
def test_official_references(name, reference_folder):
    reference = read(reference_folder / f"{name}.json")
    result = compare(reference, *outputs_of(reference))
    assert not result.problems
    assert set(result.compared) == set(reference.spec["outputs"])
