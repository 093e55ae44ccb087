"""Every backbone under every method: a few training steps lower its loss, it resumes, predicts, and is exported.

By default pairs take turns, so that each method occurs, and each backbone with detectors and with the heads of maps;
methods are exported in test_export; `pytest tests/tasks/test_every_pair.py --all` leaves out none, and exports each.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch

from vertebra import backbones, options, tasks
from vertebra.data.formats import shapes
from vertebra.structures import Frame, Preprocess
from vertebra.tasks.segmenter import Segmenter
from vertebra.tasks.top_down import TopDown
from vertebra.tasks.two_stage import TwoStage
from vertebra.text import END

# The smallest variant of every family, made smaller still.
BACKBONES = {
    "resnet18": {"depths": (1, 1, 1, 1)},
    "efficientnetv2_b0": {"depths": (1, 1, 1, 1, 1, 2)},
    "res2net50_48w2s": {"depths": (1, 1, 1, 1), "group_width": 12},
    "dla34": {"widths": (8, 16, 32, 64, 128, 256), "depths": (1, 1, 1, 2, 1, 1)},
    "blresnet50": {"depths": (3, 2, 2, 1), "group_width": 16},
    "vit_tiny_16": {"depth": 2},
    "swin_tiny": {"width": 24, "depths": (2, 2, 2, 2)},
    "hrnet_w18_small_v1": {"blocks": 1},
    "cyclemlp_b1": {"depths": (1, 1, 1, 1)},
    "asmlp_mobile": {"width": 20, "depths": (1, 1, 1, 1)},
    "mixer_s32": {"width": 64, "depth": 2},
    "resmlp_12": {"width": 64, "depth": 2},
    "gmlp_ti16": {"width": 32, "depth": 2},
    "vip_small_7": {"patch": 8, "widths": (32, 48, 48, 48), "depths": (1, 1, 1, 1)},
    "s2mlp_deep": {"width": 32, "depth": 2},
}
POSE = tuple(task for task in tasks.names() if issubclass(tasks.find(task).MODEL, TopDown))
MAPS = tuple(task for task in tasks.names() if issubclass(tasks.find(task).MODEL, Segmenter))


def pairs(every):
    """Task, method and backbone. Classification with every backbone is tested with the backbones.

    Unless `every` pair is asked for, the heads of maps, which read any pyramid, take turns, so that a backbone has one
    of each task; the default method of detection takes every backbone, all others every ninth.
    """
    for task in tasks.names():
        for number, method in enumerate(tasks.methods(task)):
            trunk = "backbone" in options.names(tasks.find(task, method).Config)
            chosen = list(BACKBONES) if trunk and task != "classification" else []
            whole = number == 0 and task == "detection"
            if not (whole or every):
                step = len(tasks.methods(task)) if task in MAPS else 9
                chosen = chosen[(number + len(task)) % step :: step]
            yield from (pytest.param(task, method, name, id=f"{task}-{method}-{name}") for name in chosen)


def pytest_generate_tests(metafunc):
    if "backbone" in metafunc.fixturenames:
        metafunc.parametrize(("task", "method", "backbone"), pairs(metafunc.config.getoption("all")))


SIDE = 64
STEPS = 3


@pytest.fixture(scope="module")
def batch():
    """Two drawn images [2, 3, 64, 64], normalised, and their targets."""
    drawn = [shapes.draw(0, i, SIDE, (1, 3)) for i in range(2)]
    images = torch.stack([image for image, _ in drawn]).float()
    return (images - images.mean()) / images.std(), [target for _, target in drawn]


def test_every_family_is_here():
    assert {backbones.family(name) for name in BACKBONES} == set(backbones.families().values())


def step(model, optimizer, images, targets):
    """The loss of a training step."""
    torch.manual_seed(1)  # the same anchors and RoIs are sampled
    total = sum(model.loss(images, targets).values())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return float(total.detach())


@pytest.mark.slow
def test_pair(make, batch, task, method, backbone, monkeypatch, pytestconfig):
    images, targets = batch
    extra = tasks.find(task, method).MODEL.extra_channels
    preprocess = Preprocess((SIDE, SIDE), resize="box" if task in POSE else "fit")
    mean, std = (*preprocess.mean, *(0.5,) * extra), (*preprocess.std, *(0.5,) * extra)
    chosen = {"preprocess": replace(preprocess, mean=mean, std=std)}
    images = torch.cat((images, torch.randn(2, extra, SIDE, SIDE).sign()), 1)
    classes = tasks.find(task, method).MODEL.fixed_classes or shapes.CLASSES
    if task in MAPS and classes is shapes.CLASSES:
        classes = ("background", *classes)
    if task == "captioning":
        tokens = (torch.tensor([60, 61, END]), torch.tensor([62, END]))
        targets = [replace(target, tokens=ids) for target, ids in zip(targets, tokens, strict=True)]
        chosen |= {"width": 16}
        if method == "hard_attention":  # whose draws' loss moves with its baseline
            chosen |= {"reward_weight": 0.0}
    elif task not in (*MAPS, *POSE, "multilabel"):
        # Boxes may lie outside the image at first, and are clipped to nothing.
        chosen |= {"score_threshold": 0.0, "max_detections": 5, "min_box_size": 0.0}
    if task in MAPS:
        targets = [replace(target, semantic=target.semantic.clamp(max=len(classes) - 1)) for target in targets]
    if task in ("keypoints", *POSE):
        chosen["keypoints"] = shapes.KEYPOINTS
    chosen |= {"backbone": backbone, "backbone_options": BACKBONES[backbone]}
    model = make(task, method, classes=classes, **chosen).train()
    rate = 2e-4 if task in (*MAPS, "captioning") else 2e-5 if task in POSE else 1e-6
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True)
    if isinstance(model, TwoStage):  # the proposals of the first step are kept, so that the losses compare
        propose, proposals = model.rpn.propose, []
        monkeypatch.setattr(model.rpn, "propose", lambda *x: proposals or proposals.extend(propose(*x)) or proposals)
    losses = [step(model, optimizer, images, targets) for _ in range(STEPS - 1)]
    stopped = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    losses.append(step(model, optimizer, images, targets))
    model.load_state_dict(stopped[0])
    optimizer.load_state_dict(stopped[1])
    assert step(model, optimizer, images, targets) == losses[-1]  # nothing of the training is outside the two states
    assert all(math.isfinite(loss) for loss in losses), losses
    assert min(losses[1:]) < losses[0], losses
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if not isinstance(model, TwoStage):  # without the finest map, and what normalises or fuses that one
        unused = [name for name in unused if not name.startswith(("backbone.norms.0.", "backbone.stages.2."))]
    if task in (*POSE, "captioning"):  # which may read one map alone
        unused = [name for name in unused if not name.startswith("backbone.norms.")]
    assert not unused, unused[:5]

    monkeypatch.undo()
    with torch.inference_mode():
        predictions = model.eval().infer(images, [Frame((96, 96), (SIDE, SIDE))] * 2)
    assert len(predictions) == 2
    if pytestconfig.getoption("all"):
        check_export(model, images)
    if task in MAPS:
        check_maps(model, images, predictions)
        return
    if task in POSE:
        assert [tuple(prediction.keypoints.shape) for prediction in predictions] == [(1, 4, 3)] * 2
        return
    if task == "captioning":
        assert [len(prediction.looks) for prediction in predictions] == [len(p.tokens) for p in predictions]
        return
    if task == "multilabel":
        assert all(((p.tags > 0) & (p.tags < 1)).tolist() == [True] * len(classes) for p in predictions)
        return
    for prediction in predictions:
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
    assert any(len(prediction.boxes) for prediction in predictions)


def check_export(model, images):
    """In float64: an untrained detector with six stages makes pixels of rounding errors."""
    model, images = model.double(), images.double()
    with torch.no_grad():
        exported = torch.export.export(model, (images,)).module()(images)
        for x, y in zip(model(images), exported, strict=True):
            torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-5)


def check_maps(model, images, predictions):
    """The maps have the size of the image and the values of the task, and a batch that is exported gives them too."""
    for prediction in predictions:
        if prediction.semantic is not None:
            assert prediction.semantic.shape == (96, 96)
            assert prediction.semantic.dtype == torch.uint8
            assert int(prediction.semantic.max()) < len(model.classes)
        else:
            assert prediction.saliency.shape == (96, 96)
            assert ((prediction.saliency >= 0) & (prediction.saliency <= 1)).all()
    with torch.inference_mode():
        (logits,) = model(images)
    assert logits.shape == (2, model.num_outputs, SIDE, SIDE)
