"""Whose a checkpoint is, and which options a model gets: default < library preset < shapes < user."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

import vertebra
from vertebra import options, tasks, weights
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.nn.norm import has_norms
from vertebra.tasks.sources import Source
from vertebra.weights import Rename


def flat(plan):
    """The options of a plan by dotted path."""
    return options.flatten(type(plan.config), vars(plan.config))


# -- the order of the layers


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"roi_align.aligned": False, "anchors.offset": 0.0, "box_width": 1024, "max_detections": 100}),
        ({"roi_align": {"aligned": True}}, {"roi_align.aligned": True, "anchors.offset": 0.0}),
        ({"roi_align.aligned": True}, {"roi_align.aligned": True, "roi_align.sampling_ratio": 2}),
        ({"anchors": {"offset": 0.5}}, {"anchors.offset": 0.5, "anchors.rounded": True, "anchors.scale": 8.0}),
        ({"norm_eps": 1e-5}, {"norm_eps": 1e-5}),
    ],
)
def test_what_the_user_sets_wins_also_when_it_is_the_default(torchvision_file, given, expected):
    plan = tasks.plan("detection", weights=torchvision_file, **given)
    assert {name: flat(plan)[name] for name in expected} == expected
    assert not expected.keys() & given.keys() & plan.loaded.report.adapted.keys()


def test_created_models_have_the_planned_options(torchvision_file):
    model = vertebra.create("detection", weights=torchvision_file, roi_align={"aligned": True})
    assert model.config.roi_align.aligned is True
    assert model.rpn.config is model.config
    assert model.report.adapted["anchors.offset"] == "0.0, as torchvision has it"
    assert "roi_align.aligned" not in model.report.adapted
    assert len(model.classes) == 90


RULES = (Rename(r"^ours\.", "box."),)


def source(**fields):
    """A library whose files have `mark` in their names."""
    return dataclasses.replace(Source(marks=(r"^mark$",), rules=RULES), **fields)


def file_with(folder, names):
    path = folder / "a.pth"
    torch.save({name: torch.zeros(3, 3, 1, 1) for name in names}, path)
    return path


@pytest.mark.parametrize(
    ("preset", "shapes", "user", "expected"),
    [
        ({}, {}, {}, (1024, 100, 0.5)),
        ({"box_width": 1, "max_detections": 1, "anchors.offset": 0.1}, {}, {}, (1, 1, 0.1)),
        ({"box_width": 1, "max_detections": 1}, {"box_width": 2}, {}, (2, 1, 0.5)),
        ({"box_width": 1, "max_detections": 1}, {"box_width": 2}, {"box_width": 3}, (3, 1, 0.5)),
        ({"box_width": 1}, {"max_detections": 2}, {"box_width": 1024, "max_detections": 100}, (1024, 100, 0.5)),
        ({"anchors.offset": 0.1}, {"anchors.offset": 0.2}, {"anchors": {"scale": 4.0}}, (1024, 100, 0.2)),
        ({"box_width": 1}, {"box_width": None}, {}, (1, 100, 0.5)),  # the shapes do not tell
    ],
)
def test_preset_then_shapes_then_user(monkeypatch, tmp_path, preset, shapes, user, expected):
    module = tasks.find("detection", "faster_rcnn")
    monkeypatch.setattr(module, "SOURCES", {"x": source(preset=preset, options=lambda tensors: shapes)})
    monkeypatch.setattr("vertebra.tasks.check_complete", lambda *_: None)
    config = tasks.plan("detection", weights=file_with(tmp_path, ("mark", "ours.a")), **user).config
    assert (config.box_width, config.max_detections, config.anchors.offset) == expected


# -- recognition


def test_a_file_that_two_methods_recognise_is_an_error_that_names_both(monkeypatch, tmp_path):
    path = file_with(tmp_path, ("mark",))
    for method, library in (("faster_rcnn", "x"), ("retinanet", "y")):
        module = tasks.find("detection", method)
        monkeypatch.setattr(module, "SOURCES", {**module.SOURCES, library: source()})
    sentence = r"a.pth: its tensors are recognised by faster_rcnn \(x\) and retinanet \(y\): name the method"
    with pytest.raises(VertebraError, match=sentence):
        tasks.plan("detection", weights=path)
    monkeypatch.setattr("vertebra.tasks.check_complete", lambda *_: None)
    assert tasks.plan("detection", method="retinanet", weights=path).loaded.method == "retinanet"


ATSS = [  # names of MMDetection's ATSS, whose towers are named as RetinaNet's
    "backbone.conv1.weight",
    "neck.lateral_convs.0.conv.weight",
    "neck.fpn_convs.0.conv.weight",
    "bbox_head.cls_convs.0.conv.weight",
    "bbox_head.reg_convs.0.conv.weight",
    "bbox_head.atss_cls.weight",
    "bbox_head.atss_reg.weight",
    "bbox_head.atss_centerness.weight",
    "bbox_head.scales.0.scale",
]

FCOS = [*ATSS[:5], "bbox_head.conv_cls.weight", "bbox_head.conv_reg.weight", "bbox_head.conv_centerness.weight"]


def test_atss_is_not_taken_for_retinanet():
    retinanet = tasks.find("detection", "retinanet").SOURCES["mmdet"]
    assert retinanet.recognises([name.replace("atss", "retina") for name in ATSS[:-2]])
    owners = [
        (method, library)
        for task in tasks.names()
        for method in tasks.methods(task)
        for library, reader in tasks.find(task, method).SOURCES.items()
        if reader.recognises(ATSS)
    ]
    assert owners == [("atss", "mmdet")]


def test_a_file_of_another_task_names_it(tmp_path):
    path = file_with(tmp_path, ("backbone.conv1.weight", "bbox_head.retina_cls.weight"))
    with pytest.raises(VertebraError, match=r"a.pth: this is a checkpoint of retinanet: it fits detection, not inst"):
        tasks.plan("instance", weights=path)


@pytest.mark.parametrize("names", [FCOS, ["backbone.conv1.weight", "x"], ["x"]])
def test_a_file_of_nobody_is_no_detectors(tmp_path, names):
    with pytest.raises(VertebraError, match="another architecture"):
        tasks.create("detection", weights=file_with(tmp_path, names), classes=2)


def test_another_librarys_name_is_refused(torchvision_file):
    with pytest.raises(VertebraError, match=r"a.pth: its tensors have names of torchvision, not of mmdet; leave"):
        tasks.plan("detection", weights=torchvision_file, source="mmdet")
    with pytest.raises(VertebraError, match="source='timm' names the library of a checkpoint, but no weights are"):
        tasks.plan("detection", source="timm")


# -- reading once


@pytest.fixture
def reads(monkeypatch):
    """The files that are looked for and opened."""
    calls = []
    find, opened = weights.fetch.locate, weights.fetch.safe_open
    monkeypatch.setattr(weights.fetch, "locate", lambda where: calls.append("find") or find(where))
    monkeypatch.setattr(weights.fetch, "safe_open", lambda *x, **y: calls.append("open") or opened(*x, **y))
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *x, **y: calls.append("open") or load(*x, **y))
    return calls


def test_a_checkpoint_is_read_once(make, tmp_path, torchvision_file, reads):
    vertebra.create("detection", weights=torchvision_file, classes=2)
    assert reads == ["find", "open"]
    path = tmp_path / "a.safetensors"
    for task, method in (("classification", "linear"), ("instance", "mask_rcnn")):
        model = make(task, method)
        checkpoint.save(model, path)
        for use in (
            lambda task=task: make(task, weights=path),
            lambda: checkpoint.load(path, device="cpu"),
            lambda model=model: model.load(path),
            lambda: vertebra.create("detection", backbone="resnet18", weights=path, classes=2),
        ):
            reads.clear()
            use()
            assert reads == ["find", "open"]
    opened = weights.open_checkpoint(path)
    reads.clear()
    make("instance", weights=opened)
    assert reads == []
    assert safe_open is not weights.fetch.safe_open  # the counter counts


# -- filling a model that exists


def test_a_file_that_computes_with_other_options_is_refused(torchvision_file):
    model = vertebra.create("detection", classes=90)
    before = model.rpn.objectness.weight.clone()
    with pytest.raises(VertebraError) as caught:
        model.load(torchvision_file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{torchvision_file}: this checkpoint computes with ")
    for option in ("anchors.offset=0.0", "anchors.rounded=True", "roi_align.aligned=False"):
        assert option in sentence
    assert "box_width" not in sentence  # the model has it so
    assert "vertebra.create(..., weights=...)" in sentence
    assert torch.equal(model.rpn.objectness.weight, before)
    report = model.load(torchvision_file, partial=True)
    assert len(report.used) > 100
    assert model.config == vertebra.tasks.plan("detection").config  # nothing changes the options of a built model


def test_our_checkpoint_with_other_options_is_refused(make, tmp_path):
    checkpoint.save(make(roi_align={"aligned": False}), tmp_path / "a.safetensors")
    with pytest.raises(VertebraError, match=r"a.safetensors: .* computes with roi_align.aligned=False: create the mod"):
        make().load(tmp_path / "a.safetensors")
    assert make(roi_align={"aligned": False}).load(tmp_path / "a.safetensors").used


# -- checkpoints of ours


def test_our_checkpoint_brings_its_options_but_not_those_of_its_training(make, tmp_path):
    first = make(drop_path=0.2, max_detections=7, anchors={"scale": 4.0}, norm="group")
    checkpoint.save(first, tmp_path / "a.safetensors")
    config = tasks.plan("detection", backbone="resnet18", weights=tmp_path / "a.safetensors").config
    assert config == dataclasses.replace(first.config, drop_path=0.0)
    again = make(weights=tmp_path / "a.safetensors", max_detections=100)  # the default, but set
    assert again.config.max_detections == 100

    first = make("classification", dropout=0.5, label_smoothing=0.1, class_weights=(1.0, 2.0))
    checkpoint.save(first, tmp_path / "b.safetensors")
    config = make("classification", weights=tmp_path / "b.safetensors").config
    assert (config.dropout, config.label_smoothing, config.class_weights) == (0.0, 0.0, None)

    first = make("keypoints")  # of two keypoints
    checkpoint.save(first, tmp_path / "c.safetensors")
    plan = tasks.plan("keypoints", backbone="resnet18", weights=tmp_path / "c.safetensors")
    assert len(plan.config.keypoints.names) == 17  # training takes them from the data


def test_our_checkpoint_brings_its_method_and_backbone(make, tmp_path):
    checkpoint.save(make(method="retinanet"), tmp_path / "a.safetensors")
    plan = tasks.plan("detection", weights=tmp_path / "a.safetensors")
    assert plan.module is tasks.find("detection", "retinanet")
    assert plan.config.backbone == "resnet18"
    with pytest.raises(VertebraError, match="retinanet has no option box_width"):
        tasks.plan("detection", weights=tmp_path / "a.safetensors", box_width=8)
    plan = tasks.plan("instance", weights=tmp_path / "a.safetensors")
    assert plan.config.backbone == "resnet18"


@pytest.mark.parametrize(
    ("task", "backbone"),
    [("detection", "resnet18"), ("instance", "resnet18"), ("semantic", "hrnet_w18_small_v1"), ("pose", "vit_tiny_16")],
)
def test_a_state_dict_without_a_description_is_ours_by_its_names(tmp_path, task, backbone):
    """As `torch.save(model.state_dict(), path)` leaves it; the model is built as the caller says."""
    common = {"backbone": backbone, "norm": "group"} if task == "detection" else {"backbone": backbone}
    state = vertebra.create(task, **common).state_dict()
    torch.save(state, tmp_path / "a.pt")
    model = vertebra.create(task, **common, weights=tmp_path / "a.pt")
    assert model.report.source == "vertebra"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


# -- another method or backbone than the file's


def test_another_method_takes_what_both_have(make, tmp_path):
    chosen = {"anchors": {"offset": 0.0}, "max_detections": 7, "box_loss": {"beta": 0.5}, "rpn_beta": 0.5}
    checkpoint.save(make(**chosen), tmp_path / "a.safetensors")
    plan = tasks.plan("detection", method="retinanet", backbone="resnet18", weights=tmp_path / "a.safetensors")
    assert plan.config.anchors.offset == 0.0  # how it computes
    assert plan.config.box_loss.beta == 0.5
    assert plan.config.max_detections == 100  # a choice of the other model
    assert plan.config.neck.channels == 256
    assert plan.config.anchors.scale == 4.0  # RetinaNet's default


def test_another_method_takes_a_librarys_shapes_and_its_own_preset(torchvision_file):
    plan = tasks.plan("detection", method="retinanet", weights=torchvision_file, neck={"norm": "group"})
    assert flat(plan)["anchors.inferred_strides"] is True  # as torchvision's RetinaNet
    assert flat(plan)["loss_per_image"] is True
    assert flat(plan)["neck.norm"] == "group"
    assert flat(plan)["norm_eps"] == 0.0
    model = plan.build()
    assert "rpn.objectness.weight" in model.report.left_out
    assert "dense.classify.weight" in model.report.new
    assert "neck.output.0.conv.weight" in model.report.used


def test_another_backbone_takes_none_of_its_options(make, tmp_path):
    small = {"depths": (1, 1, 1, 1)}
    checkpoint.save(make(backbone_options=small, max_detections=7), tmp_path / "a.safetensors")
    plan = tasks.plan("detection", backbone="resnet34", weights=tmp_path / "a.safetensors")
    assert plan.config.backbone_options == {}
    assert plan.config.max_detections == 100
    same = tasks.plan("detection", backbone="resnet18", weights=tmp_path / "a.safetensors")
    assert same.config.backbone_options == small
    other = tasks.plan("detection", backbone_options={"image_size": (64, 64)}, weights=tmp_path / "a.safetensors")
    assert other.config.backbone_options == {**small, "image_size": (64, 64)}  # joined


# -- norms


def test_norms_are_frozen_where_they_are_loaded(make, tmp_path):
    checkpoint.save(make("classification"), tmp_path / "a.safetensors")
    plan = tasks.plan("detection", backbone="resnet18", weights=tmp_path / "a.safetensors")
    assert plan.config.norm == "frozen"
    assert tasks.plan("detection", backbone="resnet18").config.norm == "auto"
    chosen = tasks.plan("detection", backbone="resnet18", weights=tmp_path / "a.safetensors", norm="batch")
    assert chosen.config.norm == "batch"
    trunk = make("classification", backbone="vit_tiny_16", backbone_options={"depth": 1})
    assert not has_norms(trunk)
    checkpoint.save(trunk, tmp_path / "b.safetensors")
    plan = tasks.plan("detection", backbone="vit_tiny_16", weights=tmp_path / "b.safetensors")
    assert plan.config.norm == "auto"


# -- methods


def test_known_methods():
    rows = {(row["task"], row["method"]): row for row in tasks.known_methods()}
    assert set(rows) == {(task, method) for task in tasks.names() for method in tasks.methods(task)}
    assert rows["detection", "retinanet"]["reads"] == ["detectron2", "mmdet", "torchvision"]
    assert rows["detection", "retinanet"]["source"] == ["arXiv:1708.02002"]
    assert rows["keypoints", "keypoint_rcnn"]["reads"] == ["detectron2", "torchvision"]
    assert rows["classification", "linear"]["reads"] == []


def test_the_default_method_is_the_first():
    assert tasks.methods("detection")[0] == tasks.default_method("detection") == "faster_rcnn"
    assert tasks.find("detection") is tasks.find("detection", "faster_rcnn")
    with pytest.raises(VertebraError, match=r"task is 'detecton'; there are .*Did you mean 'detection'"):
        tasks.find("detecton")


@pytest.mark.parametrize(("task", "method"), [(t, m) for t in tasks.names() for m in tasks.methods(t)])
def test_a_method_is_described(make, task, method):
    module = tasks.find(task, method)
    model = make(task, method)
    assert (model.task_name, model.method) == (task, method)
    assert module.MODEL.__doc__
    assert set(module.SOURCES) <= {"torchvision", "detectron2", "mmdet", "mmseg", "mmpose", "official", "transformers"}
    for reader in module.SOURCES.values():
        assert set(reader.preset) <= set(options.names(module.Config))
    about = model.describe()
    assert (about["task"], about["method"], about["classes"]) == (task, method, ["0", "1"])
    assert options.build(module.Config, about["model"]) == model.config
