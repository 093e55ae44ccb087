"""Every backbone under every method: it builds, learns a little and answers."""

import math

import pytest
import torch

from vertebra import backbones, tasks
from vertebra.data import shapes
from vertebra.structures import Frame, Preprocess

# The smallest variant of every family, made smaller where it is not small.
BACKBONES = {
    "resnet18": {},
    "efficientnetv2_b0": {},
    "res2net50_48w2s": {"depths": (1, 1, 1, 1)},
    "dla34": {},
    "blresnet50": {},
    "vit_tiny_16": {"depth": 2},
    "swin_tiny": {"width": 24, "depths": (2, 2, 2, 2)},
    "hrnet_w18_small_v1": {},
    "cyclemlp_b1": {"depths": (1, 1, 1, 1)},
    "asmlp_mobile": {"width": 20, "depths": (1, 1, 1, 1)},
    "mixer_s32": {"width": 64, "depth": 2},
    "resmlp_12": {"width": 64, "depth": 2},
    "gmlp_ti16": {"width": 32, "depth": 2},
    "vip_small_7": {"patch": 8, "widths": (32, 48, 48, 48), "depths": (1, 1, 1, 1)},
    "s2mlp_deep": {"width": 32, "depth": 2},
}
METHODS = [
    ("detection", "faster_rcnn"),
    ("detection", "faster_rcnn_c4"),
    ("detection", "cascade_rcnn"),
    ("detection", "retinanet"),
    ("instance", "mask_rcnn"),
    ("instance", "mask_rcnn_c4"),
    ("instance", "cascade_mask_rcnn"),
    ("keypoints", "keypoint_rcnn"),
]
SIDE = 64
POINTS = shapes.POINTS


def make(task, method, backbone, **options):
    """A small model for pictures of 64 x 64."""
    small = {"channels": 16, "score_threshold": 0.0, "detections": 5}
    if method != "retinanet":
        small |= {"region_batch": 16, "rpn_batch": 64, "proposals_train": 50, "proposals_test": 20}
        if not method.endswith("_c4"):
            small["box_width"] = 32
    if task == "keypoints":
        small |= {"points": POINTS, "keypoint_width": 16, "keypoint_convs": 1}
    preprocess = Preprocess((SIDE, SIDE), resize="fit")
    small |= {"backbone": backbone, "backbone_options": BACKBONES.get(backbone, {}), **options}
    return tasks.create(task, classes=shapes.CLASSES, preprocess=preprocess, method=method, **small)


def batch(count=2):
    """Drawn pictures [B, 3, 64, 64] and what is true of them."""
    scenes = [shapes.draw(0, i, SIDE, (1, 3)) for i in range(count)]
    images = torch.stack([torch.as_tensor(scene.picture).permute(2, 0, 1) for scene in scenes]).float()
    return (images - images.mean()) / images.std(), [scene.target for scene in scenes]


def test_every_family_is_here():
    assert {backbones.family(name) for name in BACKBONES} == set(backbones.families().values())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("task", "method"), METHODS, ids=[method for _, method in METHODS])
def test_pair(task, method, backbone):
    torch.manual_seed(0)
    model = make(task, method, backbone).train()
    images, targets = batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)  # the same regions are drawn, so that the steps compare
        terms = model.loss(images, targets)
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert all(math.isfinite(loss) for loss in losses), losses
    assert min(losses[3:]) < losses[0], losses
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if method == "retinanet":  # it leaves the finest map alone, and with it what normalises or joins that one
        unused = [name for name in unused if not name.startswith(("backbone.norms.0.", "backbone.stages.2."))]
    assert not unused, unused[:5]

    with torch.inference_mode():
        found = model.eval().infer(images, [Frame((96, 96), (SIDE, SIDE))] * 2)
    assert len(found) == 2
    for prediction in found:
        count = len(prediction.boxes)
        assert count <= 5
        assert prediction.boxes.shape == (count, 4)
        assert ((prediction.boxes >= 0) & (prediction.boxes <= 96)).all()
        assert (prediction.scores[:-1] >= prediction.scores[1:]).all()
        assert ((prediction.labels >= 0) & (prediction.labels < len(shapes.CLASSES))).all()
        if task == "instance":
            assert prediction.masks.dense().shape == (count, 96, 96)
        if task == "keypoints":
            assert prediction.keypoints.shape == (count, 4, 3)
    assert any(len(prediction.boxes) for prediction in found)
