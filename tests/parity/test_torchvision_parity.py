"""Detectors of torchvision, loaded as a user loads them, give torchvision's predictions and losses."""

import pytest
import torch
import torchvision
from detectors import FEWER
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, backbone_utils
from torchvision.ops import FrozenBatchNorm2d

import vertebra
from vertebra.images import frame_of, pad_batch, prepare
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.structures import Preprocess, Target
from vertebra.tasks.detection.retinanet import RetinaNet

GAIN = {
    "": 1.0,
    "rpn.head.bbox_pred": 0.1,
    "rpn.head.cls_logits": 0.5,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.box_predictor.cls_score": 2.0,
    "head.classification_head.cls_logits": 2.0,
    "head.regression_head.bbox_reg": 0.1,
}
SIDES = (96, 128)  # shorter side, and maximum of the longer
IMAGES = [0.5 + 0.22 * fabricated_input((3, 64, 80), 0), 0.5 + 0.22 * fabricated_input((3, 90, 70), 1)]
IMAGES = [image.clamp(0, 1) for image in IMAGES]


def original(name, **options):
    """Theirs, filled, in eval mode."""
    options = {"weights": None, "weights_backbone": None, "min_size": SIDES[0], "max_size": SIDES[1], **options}
    if "rcnn" in name:
        options |= {"rpn_post_nms_top_n_test": 100, "rpn_post_nms_top_n_train": 200}
        options |= {"box_batch_size_per_image": 64, "box_detections_per_img": 15}
    return fill(getattr(torchvision.models.detection, name)(**options))


def fill(model):
    rows = [[name, list(tensor.shape)] for name, tensor in model.state_dict().items()]
    model.load_state_dict(fabricate_state(rows, GAIN))
    return model.eval()


def loaded(task, theirs, folder, **options):
    """Ours, from a file of theirs."""
    path = folder / "theirs.pth"
    torch.save({"model": theirs.state_dict()}, path)
    preprocess = Preprocess(SIDES, resize="shortest", antialias=False)
    ours = vertebra.create(task, weights=path, preprocess=preprocess, **options)
    path.unlink()
    left = {name: why for name, why in ours.report.left_out.items() if "num_batches_tracked" not in name}
    assert not left, left
    assert all(name.endswith("num_batches_tracked") for name in ours.report.new)
    return ours


def same(ours, theirs, background=1):
    """Predictions for both images, theirs with background as class 0."""
    with torch.no_grad():
        expected = theirs(IMAGES)
    for prediction, other in zip(predicted(ours), expected, strict=True):
        assert len(prediction.boxes) == len(other["boxes"]) > 10
        assert torch.allclose(prediction.boxes, other["boxes"], atol=1e-2)
        assert torch.allclose(prediction.scores, other["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(prediction.labels, other["labels"] - background)
        yield prediction, other


def predicted(task):
    """Of floats, which `predict` would round to bytes."""
    task.eval()
    frames = [frame_of(tuple(x.shape[1:]), task.preprocess) for x in IMAGES]
    batch = pad_batch([prepare(x, task.preprocess) for x in IMAGES], task.preprocess)
    with torch.no_grad():
        return task.infer(batch, frames)


def same_losses(ours, theirs, names, monkeypatch, **target):
    """Terms of the loss for the first image, ours by theirs in `names`; RoIs are sampled in their order."""
    image, (height, width) = IMAGES[0], IMAGES[0].shape[1:]
    monkeypatch.setattr(torch, "randperm", lambda count, device=None: torch.arange(count))
    for model in (ours, theirs):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    with torch.no_grad():
        expected = theirs([image], [dict(target)])
        frame = frame_of((height, width), ours.preprocess)
        batch = pad_batch([prepare(image, ours.preprocess)], ours.preprocess)
        factor = torch.tensor([frame.resized[1] / width, frame.resized[0] / height])
        annotations = Target(boxes=target["boxes"] * factor.repeat(2), labels=target["labels"], size=frame.resized)
        if "keypoints" in target:
            annotations.labels = annotations.labels - 1
            annotations.keypoints = torch.cat((target["keypoints"][..., :2] * factor, target["keypoints"][..., 2:]), 2)
        terms = ours.loss(batch, [annotations])
    assert set(terms) == set(names)
    assert set(names.values()) == set(expected)
    for name, other in names.items():
        assert float(terms[name]) == pytest.approx(float(expected[other]), rel=1e-4), name
        assert float(expected[other]) > 1e-4


def test_faster_rcnn_as_it_was_published(tmp_path):
    """With frozen norms that add nothing to the variance."""
    trunk = backbone_utils._resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    theirs = FasterRCNN(trunk, 91, min_size=SIDES[0], max_size=SIDES[1])
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    ours = loaded("detection", fill(theirs), tmp_path)
    assert len(ours.classes) == 90
    assert ours.config.norm_eps == 0.0
    assert set(ours.report.adapted) == {
        *("anchors.offset", "anchors.rounded", "anchors.inferred_strides", "roi_align.aligned", "norm", "norm_eps"),
    }
    list(same(ours, theirs))


def test_faster_rcnn_v2(tmp_path):
    theirs = original("fasterrcnn_resnet50_fpn_v2", num_classes=7)
    ours = loaded("detection", theirs, tmp_path, **FEWER)
    chosen = (ours.config.rpn_num_convs, ours.config.box_head, ours.config.neck.norm, ours.config.head_norm)
    assert chosen == (2, "4conv1fc", "batch", "batch")
    list(same(ours, theirs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_mask_rcnn(name, tmp_path):
    theirs = original(name, num_classes=7)
    ours = loaded("instance", theirs, tmp_path, **FEWER)
    for prediction, other in same(ours, theirs):
        masks = other["masks"][:, 0] >= 0.5
        assert masks.any()
        assert float((prediction.masks.dense() != masks).float().mean()) < 1e-4


@pytest.mark.slow
def test_keypoint_rcnn(tmp_path, monkeypatch):
    theirs = original("keypointrcnn_resnet50_fpn", num_classes=2)
    ours = loaded("keypoints", theirs, tmp_path, **FEWER)
    for prediction, other in same(ours, theirs):
        assert torch.allclose(prediction.keypoints[..., :2], other["keypoints"][..., :2], atol=2e-2)
        assert torch.allclose(prediction.keypoints[..., 2], other["keypoints_scores"].sigmoid(), atol=1e-4)
    names = {"classification": "loss_classifier", "box": "loss_box_reg", "keypoint": "loss_keypoint"}
    names |= {"objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}
    boxes = torch.tensor([[5.0, 4.0, 40.0, 60.0], [30.0, 8.0, 78.0, 50.0]])
    locations = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(0)) * 60
    seen = torch.arange(34).remainder(3).view(2, 17, 1).float()
    keypoints = torch.cat((locations, seen), 2)
    labels = torch.ones(2, dtype=torch.int64)
    same_losses(ours, theirs, names, monkeypatch, boxes=boxes, labels=labels, keypoints=keypoints)


@pytest.mark.parametrize(("name", "levels"), [("", "pyramid"), ("_v2", "backbone")])
def test_retinanet(name, levels, tmp_path, monkeypatch):
    theirs = original(f"retinanet_resnet50_fpn{name}", num_classes=7)
    ours = loaded("detection", theirs, tmp_path)
    assert isinstance(ours, RetinaNet)
    assert (len(ours.classes), ours.config.extra_levels.source, ours.config.max_detections) == (7, levels, 300)
    list(same(ours, theirs, background=0))  # its classes have the background among them
    names = {"classification": "classification", "box": "bbox_regression"}
    boxes = torch.tensor([[5.0, 4.0, 40.0, 60.0], [30.0, 8.0, 78.0, 50.0]])
    same_losses(ours, theirs, names, monkeypatch, boxes=boxes, labels=torch.tensor([3, 6]))
