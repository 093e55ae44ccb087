"""Detectors: their options, what they do where there is nothing, their checkpoints."""

import dataclasses
import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import vertebra
from vertebra import pictures, tasks, weights
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.heads.regions import Detections
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.fold import fold
from vertebra.ops.match import match
from vertebra.structures import COCO_PERSON, Frame, Points, Preprocess, Target

POINTS = Points(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2))
METHODS = [
    ("detection", "faster_rcnn"),
    ("detection", "retinanet"),
    ("detection", "cascade_rcnn"),
    ("instance", "mask_rcnn"),
    ("instance", "mask_rcnn_c4"),
    ("instance", "cascade_mask_rcnn"),
    ("keypoints", "keypoint_rcnn"),
]


def make(task="detection", method="faster_rcnn", classes=2, **options):
    small = {"backbone": "resnet18", "channels": 16, "preprocess": Preprocess((64, 96), resize="shortest")}
    if method != "retinanet":
        small |= {"region_batch": 16, "rpn_batch": 32, "proposals_train": 40, "proposals_test": 20}
        if not method.endswith("_c4"):
            small["box_width"] = 16
    if task == "keypoints":
        small |= {"points": POINTS, "keypoint_width": 8, "keypoint_convs": 1}
    torch.manual_seed(0)
    return tasks.create(task, classes=classes, method=method, **{**small, **options})


def target(boxes=(), crowd=None, size=(64, 64)) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.arange(count) % 2,
        masks=torch.ones(count, 64, 64, dtype=torch.bool),
        keypoints=torch.full((count, 2, 3), 20.0),
        crowd=None if crowd is None else torch.tensor(crowd),
        size=size,
    )


def total(model, targets) -> float:
    value = sum(model.train().loss(torch.randn(len(targets), 3, 64, 64), targets).values())
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return float(value.detach())


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_the_loss_is_finite_where_there_is_nothing_to_learn(task, method):
    model = make(task, method)
    empty = target()
    assert math.isfinite(total(model, [empty, empty]))
    assert math.isfinite(total(model, [empty, target([[4, 4, 30, 40]])]))
    assert math.isfinite(total(model, [target([[4, 4, 30, 40]], crowd=[True])]))
    unseen = target([[4, 4, 30, 40]])
    unseen.keypoints[..., 2] = 0  # of no keypoint the place is known
    assert math.isfinite(total(model, [unseen]))


@pytest.mark.parametrize("nearest", [0.0, 0.3])
def test_a_batch_where_no_anchor_matches(nearest):
    """An object of a pixel overlaps with no anchor by 0.3, but with `nearest` at 0 its nearest ones are its own."""
    model = make(rpn_nearest=nearest)
    tiny = target([[10, 10, 11, 11]])
    assert math.isfinite(total(model, [tiny, tiny]))
    maps = model.features(torch.randn(1, 3, 64, 64))
    anchors = torch.cat(model.rpn.anchors(model.rpn.raw(maps), (64, 64)))
    found = match(anchors, tiny.boxes, torch.zeros(0, 4), high=0.7, low=0.3, nearest=nearest)
    assert bool((found >= 0).any()) == (nearest == 0)


@pytest.mark.parametrize(("task", "method"), [METHODS[0], METHODS[1]])
def test_two_thousand_objects_in_one_picture(task, method):
    corners = torch.rand(2000, 2) * 50
    boxes = torch.cat((corners, corners + 1 + torch.rand(2000, 2) * 12), 1)
    assert math.isfinite(total(make(task, method), [target(boxes.tolist())]))


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_no_answer_is_an_empty_prediction(task, method):
    model = make(task, method, score_threshold=1.0).eval()
    with torch.inference_mode():
        (found,) = model.infer(torch.randn(1, 3, 64, 64), [Frame((100, 80), (64, 51))])
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    if task == "instance":
        assert found.masks.dense().shape == (0, 100, 80)
    if task == "keypoints":
        assert found.keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize(("task", "method"), [pair for pair in METHODS if pair[1] != "retinanet"])
def test_zero_proposals(task, method, monkeypatch):
    model = make(task, method)
    monkeypatch.setattr(model.rpn, "propose", lambda raw, anchors, sizes: [torch.zeros(0, 4) for _ in sizes])
    assert math.isfinite(total(model, [target(), target()]))
    assert math.isfinite(total(model, [target(), target([[4, 4, 30, 40]])]))
    with torch.inference_mode():
        (found,) = model.eval().infer(torch.randn(1, 3, 64, 64), [Frame((100, 80), (64, 51))])
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)


def test_the_papers_numbers():
    """Proposals in training and in use, and regions learned from, where no option says otherwise."""
    preprocess = Preprocess((1024, 1024), resize="shortest")
    for method, train, test, learned in (("faster_rcnn", 2000, 1000, 512), ("faster_rcnn_c4", 2000, 300, 64)):
        torch.manual_seed(0)
        model = tasks.create("detection", classes=2, method=method, backbone="resnet18", preprocess=preprocess)
        assert model.config.detections == 100
        maps = model.features(torch.randn(1, 3, 512, 512))
        raw = [(torch.randn_like(logits), torch.zeros_like(deltas)) for logits, deltas in model.rpn.raw(maps)]
        grid = model.rpn.anchors(raw, (4096, 4096))
        apart = [torch.cat((each[:, :2], each[:, :2] + 0.5), 1) for each in grid]  # no two of a level overlap
        for training, count in ((True, train), (False, test)):
            model.rpn.train(training)
            (proposals,) = model.rpn.propose(raw, apart, [(4096, 4096)])
            assert len(proposals) == count
        drawn, _ = model.train().learn(maps, [grid[0][:1000]], [target([[4, 4, 30, 40]])], [(512, 512)])
        assert len(drawn[0][0].boxes) == learned


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "swin_tiny", "norm": "group"}, "norm is 'group', but swin_tiny has no batch norm"),
        (
            {"backbone": "vit_tiny_16", "neck": "fpn"},
            "vit_tiny_16 has maps of one scale, of which fpn makes no pyramid",
        ),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options, said):
    with pytest.raises(VertebraError) as caught:
        make(**options)
    assert said in str(caught.value)


def test_crowds_are_no_background():
    """Regions in a crowd are not drawn at all."""
    from vertebra.heads.regions import draw

    boxes = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    options = {"iou": 0.5, "count": 8, "positive": 0.25}
    (samples,) = draw([boxes], [target([[0, 0, 20, 20]], crowd=[True])], 2, **options)
    assert samples.boxes.tolist() == [[40, 40, 50, 50]]
    assert samples.labels.tolist() == [2]


def test_answers_come_back_in_the_pictures_pixels():
    model = make("keypoints", "keypoint_rcnn")
    heatmaps = torch.full((1, 2, 8, 8), -9.0)
    heatmaps[0, :, 4, 4] = 9
    detections = Detections(torch.tensor([[10.0, 20, 26, 36]]), torch.ones(1), torch.zeros(1).long(), heatmaps=heatmaps)
    found = model.restored(detections, Frame((200, 100), (64, 32)))  # 3.125 pixels for each of the input's
    assert found.boxes.tolist()[0] == pytest.approx([31.25, 62.5, 81.25, 112.5])
    assert found.keypoints[0, 0, :2].tolist() == pytest.approx([19 * 3.125, 29 * 3.125], abs=3.2)
    assert found.size == (200, 100)


def test_anchors_start_at_eight_cells():
    model = make(backbone="resnet18")
    assert model.rpn.sides == [[32], [64], [128], [256], [512]]
    assert make(method="faster_rcnn_c4").rpn.sides == [[32, 64, 128, 256, 512]]
    sides = make(method="retinanet").dense.sides
    assert sides[0] == pytest.approx([32, 40.3, 50.8], abs=0.1)
    assert [own[0] for own in sides] == [32, 64, 128, 256, 512]


def test_necks():
    assert isinstance(make().neck, FPN)
    assert isinstance(make(backbone="hrnet_w18_small_v1", neck="hrfpn").neck, HRFPN)
    assert isinstance(make(backbone="vit_tiny_16", backbone_options={"depth": 1}).neck, SimplePyramid)
    with pytest.raises(VertebraError, match="hrfpn makes no pyramid"):
        make(backbone="vit_tiny_16", backbone_options={"depth": 1}, neck="hrfpn")


def test_the_c4_form_runs_the_backbones_own_last_stage():
    model = make(method="faster_rcnn_c4")
    assert [level.stride for level in model.backbone.levels] == [2, 4, 8, 16]
    assert sum(p.numel() for p in model.stage.parameters()) == 8_393_728  # layer4 of ResNet-18
    (x,) = model.features(torch.randn(1, 3, 64, 64))
    assert x.shape == (1, 256, 4, 4)
    assert model.regions([x], [torch.tensor([[0.0, 0, 30, 30]])], 7).shape == (1, 512, 7, 7)


def norms(module) -> set[type]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(m) for m in module.modules() if isinstance(m, kinds)}


def test_norms():
    assert norms(make().backbone) == {nn.BatchNorm2d}
    assert norms(make(norm="frozen").backbone) == {FrozenBatchNorm2d}
    assert norms(make(norm="group").backbone) == {nn.GroupNorm}
    assert norms(make(norm="sync").backbone) == {nn.SyncBatchNorm}
    model = make("instance", "mask_rcnn", neck_norm="group", head_norm="batch", box_head="4conv1fc")
    assert norms(model.neck) == {nn.GroupNorm}
    assert norms(model.box) == norms(model.mask) == {nn.BatchNorm2d}
    assert norms(model.rpn) == set()


@pytest.mark.parametrize("norm", ["batch", "frozen", "group", "sync"])
def test_folding_changes_nothing(norm):
    model = make("instance", "mask_rcnn", norm=norm, neck_norm="batch", head_norm="batch").eval()
    for module in model.modules():  # statistics that are not those of the start
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        (before,) = model(images)
        (after,) = fold(model)(images)
    torch.testing.assert_close(after.boxes, before.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(after.masks, before.masks, atol=1e-4, rtol=1e-4)


def test_a_method_refuses_options_that_it_has_no_use_for():
    with pytest.raises(VertebraError, match="retinanet has no option rpn_convs"):
        make(method="retinanet", rpn_convs=2)
    with pytest.raises(VertebraError, match="faster_rcnn has no option cascade_mean"):
        make(cascade_mean="logits")
    with pytest.raises(VertebraError, match="faster_rcnn_c4 has no option box_head"):
        make(method="faster_rcnn_c4", box_head="4conv1fc")
    with pytest.raises(VertebraError, match="mask_rcnn has no option mask_stages"):
        make("instance", "mask_rcnn", mask_stages=1)


@pytest.mark.parametrize("masks", ["class", "agnostic", "softmax"])
def test_kinds_of_masks(masks):
    model = make("instance", "mask_rcnn", classes=3, masks=masks)
    assert model.mask.logits.out_channels == {"class": 3, "agnostic": 1, "softmax": 4}[masks]
    logits = torch.zeros(2, model.mask.logits.out_channels, 4, 4)
    logits[0, -1] = 2.0  # softmax: the background; class: class 2
    found = model.mask.probabilities(logits, torch.tensor([2, 0]))
    sigmoid = 1 / (1 + math.exp(-2))
    first = {"class": sigmoid, "agnostic": sigmoid, "softmax": 1 / (3 + math.exp(2))}[masks]
    assert float(found[0, 0, 0]) == pytest.approx(first)
    assert float(found[1, 0, 0]) == pytest.approx({"softmax": 0.25}.get(masks, 0.5))
    assert math.isfinite(total(model, [target([[4, 4, 30, 40]])]))


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_checkpoints_come_back_whole(task, method, tmp_path):
    model = make(task, method, classes=["cat", "dog"], norm="frozen").eval()
    checkpoint.save(model, tmp_path / "a.safetensors", metrics={"threshold": 0.25})
    again, about = checkpoint.load(tmp_path / "a.safetensors", device="cpu")
    assert again.config == model.config
    assert again.classes == ("cat", "dog")
    assert again.preprocess == model.preprocess
    assert about["metrics"] == {"threshold": 0.25}
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        (first,), (second,) = model(images), again(images)
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.scores, second.scores)


def test_a_checkpoint_of_a_c4_form_that_started_from_weights(tmp_path):
    """CycleMLP spares no stage: the blocks for the regions are new, and their norms count on."""
    classifier = tasks.create("classification", backbone="cyclemlp_b1", classes=5)
    checkpoint.save(classifier, tmp_path / "a.safetensors")
    model = make(method="faster_rcnn_c4", backbone="cyclemlp_b1", weights=tmp_path / "a.safetensors")
    assert norms(model.stage) == {nn.BatchNorm2d}
    checkpoint.save(model, tmp_path / "b.safetensors")
    again, _ = checkpoint.load(tmp_path / "b.safetensors", device="cpu")
    assert again.config == model.config


def test_the_next_run_computes_as_its_checkpoint_does(tmp_path):
    first = make("instance", "mask_rcnn", roi_aligned=False, anchor_offset=0.0, drop_path=0.1, norm="frozen")
    checkpoint.save(first, tmp_path / "a.safetensors")
    again = make("instance", "mask_rcnn", classes=7, weights=tmp_path / "a.safetensors", anchor_offset=0.25)
    assert (again.config.roi_aligned, again.config.anchor_offset, again.config.drop_path) == (False, 0.25, 0.0)
    assert again.report.adapted["roi_aligned"] == "False, as the checkpoint has it"
    other = make("detection", "faster_rcnn", weights=tmp_path / "a.safetensors")  # of another task, with the same parts
    assert not other.config.roi_aligned


def test_how_a_backbone_computes_goes_on_to_other_tasks(tmp_path):
    caffe = {"backbone": "resnet50", "backbone_options": {"stride_first": True}}
    checkpoint.save(tasks.create("classification", classes=2, **caffe), tmp_path / "a.safetensors")
    model = make(backbone="resnet50", weights=tmp_path / "a.safetensors")
    assert model.config.backbone_options == {"stride_first": True}
    assert "stride_first" in model.report.adapted["backbone_options"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head_norm": "group"}, "head_norm is 'group', but there .* or choose box_head=4conv1fc"),
        ({"neck_norm": "batch", "backbone": "vit_tiny_16"}, "neck_norm is 'batch', .* leave it out with vit_tiny_16"),
    ],
)
def test_norms_that_have_no_place_are_refused(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        make(**options)


def test_frozen_norms_keep_half_precision():
    model = make(norm="frozen")
    with torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in model.backbone(torch.randn(1, 3, 64, 64))} == {torch.bfloat16}


def test_a_classifiers_checkpoint_starts_a_detector(tmp_path):
    classifier = tasks.create("classification", backbone="resnet18", classes=5)
    checkpoint.save(classifier, tmp_path / "a.safetensors")
    model = make(weights=tmp_path / "a.safetensors")
    for name, parameter in classifier.backbone.named_parameters():
        assert torch.equal(model.backbone.state_dict()[name], parameter)
    assert model.config.norm == "frozen"
    assert norms(model.backbone) == {FrozenBatchNorm2d}
    assert any(name.startswith("rpn.") for name in model.report.new)
    assert "head.weight" in model.report.left_out


def test_a_detectors_checkpoint_starts_one_for_other_classes(tmp_path):
    first = make("instance", "mask_rcnn", classes=2)
    checkpoint.save(first, tmp_path / "a.safetensors")
    second = make("instance", "mask_rcnn", classes=3, weights=tmp_path / "a.safetensors")
    assert torch.equal(second.rpn.deltas.weight, first.rpn.deltas.weight)
    assert {"box.classify.weight", "box.deltas.weight", "mask.logits.weight"} <= set(second.report.new)
    with pytest.raises(VertebraError, match="another architecture"):
        make(backbone="resnet34", weights=tmp_path / "a.safetensors")


def test_preprocessing_follows_the_backbone():
    assert tasks.preprocess_of("detection", "resnet18", None) == Preprocess((800, 1333), resize="shortest")
    assert tasks.preprocess_of("detection", "mixer_b16", None).resize == "fit"
    assert tasks.preprocess_of("classification", "resnet18", None) == Preprocess()


def test_a_backbone_of_one_size_wants_pictures_fitted():
    for name in ("mixer_b16", "vip_small_7", "gmlp_s16", "resmlp_12"):
        assert tasks.preprocess_of("detection", name, None).resize == "fit"
        with pytest.raises(VertebraError, match="must be 'fit'"):
            make(backbone=name)


def test_predict_takes_pictures_of_any_size():
    model = make("instance", "mask_rcnn", score_threshold=0.0).eval()
    images = [torch.zeros(3, 50, 40, dtype=torch.uint8), torch.zeros(1, 30, 90, dtype=torch.uint8)]
    first, second = model.predict(images)
    assert (first.size, second.size) == ((50, 40), (30, 90))
    assert len(first.boxes)
    assert first.masks.dense().shape[1:] == (50, 40)
    assert (second.boxes[:, 2] <= 90).all()


def test_padding_is_not_part_of_the_picture():
    """Proposals end where the picture does."""
    model = make(score_threshold=0.0).eval()
    images, frames = pictures.prepare_all([torch.zeros(3, 40, 90, dtype=torch.uint8)] * 2, model.preprocess)
    assert images.shape[-2:] == (64, 96)
    assert frames[0].scaled == (42, 96)
    with torch.inference_mode():
        found = model(images, [(42, 96), (20, 30)])
    assert float(found[0].boxes[:, 3].max()) <= 42
    assert float(found[1].boxes[:, 2].max()) <= 30


def test_default_keypoints_are_those_of_people():
    model = vertebra.create("keypoints", backbone="resnet18", classes=1, channels=16, keypoint_convs=1)
    assert model.config.points == COCO_PERSON
    assert dataclasses.asdict(model.config)["points"]["names"][0] == "nose"


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_the_norms_of_neck_and_heads_are_those_chosen(task, method):
    options = {} if method.endswith("_c4") else {"neck_norm": "group", "head_norm": "group"}
    options |= {} if method.endswith(("_c4", "retinanet")) else {"box_head": "4conv1fc"}
    model = make(task, method, **options)
    heads = [
        module
        for name, child in model.named_children()
        if name not in ("backbone", "stage")
        for module in child.modules()
    ]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in heads)
    if options:
        assert any(isinstance(module, torch.nn.GroupNorm) for module in heads)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "retina_net"}, r"method is 'retina_net'; there are .*\. Did you mean 'retinanet'\?"),
        ({"neck": "hrfnp"}, r"neck is 'hrfnp'; there are .*\. Did you mean 'hrfpn'\?"),
        (
            {"method": "cascade_rcnn", "cascade_scales": ((10.0, 10.0, 5.0, 5.0),)},
            r"four numbers above 0 for each of three",
        ),
        ({"method": "cascade_rcnn", "cascade_scales": ((0.0, 1.0, 1.0, 1.0),) * 3}, r"four numbers above 0"),
        ({"norm": "frozen", "backbone": "vit_tiny_16"}, r"norm is 'frozen', but vit_tiny_16 has no batch norm"),
    ],
)
def test_words_and_numbers_of_no_use(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("detection", **{"backbone": "resnet18", "classes": 2, **options})


@pytest.mark.parametrize("backbone", ["vit_tiny_16", "resnet18"])
def test_retinanets_maps_have_the_strides_that_its_anchors_stand_for(backbone):
    model = vertebra.create("detection", method="retinanet", backbone=backbone, classes=2, channels=32)
    side = model.preprocess.size[0] if model.preprocess.resize == "fit" else 256
    maps = model.features(torch.zeros(1, 3, side, side))
    for level, x in zip(model.coarser.levels, maps, strict=True):
        assert x.shape[-1] == -(-side // level.stride)


@pytest.mark.parametrize(("first", "then"), [("cascade_rcnn", "faster_rcnn_c4"), ("faster_rcnn_c4", "cascade_rcnn")])
def test_the_last_stage_goes_between_pyramids_and_c4(first, then, tmp_path):
    trained = vertebra.create("detection", method=first, backbone="resnet18", classes=2)
    checkpoint.save(trained, tmp_path / "a.safetensors")
    model = vertebra.create(
        "detection", method=then, backbone="resnet18", classes=2, weights=tmp_path / "a.safetensors"
    )
    place = {"cascade_rcnn": "backbone.stages.3.", "faster_rcnn_c4": "stage."}
    for name, tensor in trained.state_dict().items():
        if name.startswith(place[first]) and not name.endswith("num_batches_tracked"):
            assert torch.equal(model.state_dict()[place[then] + name.removeprefix(place[first])], tensor), name


def test_norms_that_were_not_loaded_are_not_frozen(tmp_path):
    classifier = vertebra.create("classification", backbone="resnet18", classes=2)
    own = {k: t for k, t in classifier.backbone.state_dict().items() if not k.startswith("stages.3.")}
    model = vertebra.create("detection", method="faster_rcnn_c4", backbone="resnet18", classes=2)
    report = weights.Report("file", "timm", used=[f"backbone.{name}" for name in own])
    model.settle(report)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.stage.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


@pytest.mark.parametrize(("norm", "given", "eps"), [("auto", None, 0.0), ("frozen", None, 0.0), ("frozen", 1e-3, 1e-3)])
def test_the_eps_of_torchvisions_first_detectors(norm, given, eps, tmp_path):
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    frozen = {k: t for k, t in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(frozen, tmp_path / "a.pth")
    model = vertebra.create("detection", norm=norm, norm_eps=given, weights=tmp_path / "a.pth")
    assert {module.eps for module in model.backbone.modules() if isinstance(module, FrozenBatchNorm2d)} == {eps}


def test_boxes_clipped_late_are_none_without_a_side():
    model = vertebra.create("detection", method="retinanet", backbone="resnet18", classes=1, clip_late=True).eval()
    with torch.no_grad():
        model.dense.classify.bias += 10  # all are sure
        found = model(torch.zeros(1, 3, 64, 64), [(64, 40)])[0]
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert len(found.boxes)
    assert float(sides.min()) >= model.config.least_side
