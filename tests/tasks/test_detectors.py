"""Detectors: their options, empty images and targets, their checkpoints."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import vertebra
from vertebra import tasks, weights
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.heads.roi import sample_rois
from vertebra.images import prepare_all
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.fold import fold
from vertebra.ops.match import match
from vertebra.options import names as option_names
from vertebra.structures import COCO_PERSON, Frame, Masks, Preprocess, Target
from vertebra.tasks.two_stage import TwoStage

PREPROCESS = Preprocess((64, 96), resize="shortest")
METHODS = [
    (task, method)
    for task in tasks.names()
    for method in tasks.methods(task)
    if tasks.find(task, method).MODEL.kind in ("boxes", "masks", "keypoints")
]
TWO_STAGE = [(task, method) for task, method in METHODS if issubclass(tasks.find(task, method).MODEL, TwoStage)]


def target(boxes=(), crowd=None, size=(64, 64)) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.arange(count) % 2,
        masks=Masks.from_dense(torch.ones(count, 64, 64, dtype=torch.bool)),
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
def test_the_loss_is_finite_where_there_is_nothing_to_learn(make, task, method):
    model = make(task, method)
    empty = target()
    assert math.isfinite(total(model, [empty, empty]))
    assert math.isfinite(total(model, [empty, target([[4, 4, 30, 40]])]))
    assert math.isfinite(total(model, [target([[4, 4, 30, 40]], crowd=[True])]))
    unseen = target([[4, 4, 30, 40]])
    unseen.keypoints[..., 2] = 0  # no keypoint is labelled
    assert math.isfinite(total(model, [unseen]))


@pytest.mark.parametrize("low_quality_iou", [0.0, 0.3])
def test_a_batch_where_no_anchor_matches(make, low_quality_iou):
    """A one-pixel object overlaps no anchor by 0.3, but with a threshold of 0 it is matched to those that overlap it
    most."""
    model = make(rpn_low_quality_iou=low_quality_iou)
    tiny = target([[10, 10, 11, 11]])
    assert math.isfinite(total(model, [tiny, tiny]))
    maps = model.features(torch.randn(1, 3, 64, 64))
    anchors = torch.cat(model.rpn.grids(model.rpn.raw(maps), (64, 64)))
    matches = match(anchors, tiny.boxes, torch.zeros(0, 4), high=0.7, low=0.3, low_quality_iou=low_quality_iou)
    assert bool((matches >= 0).any()) == (low_quality_iou == 0)


@pytest.mark.parametrize("method", ["faster_rcnn", "retinanet", "atss", "reppoints", "reppoints_v2", "sparse_rcnn"])
def test_two_thousand_objects_in_one_image(make, method):
    corners = torch.rand(2000, 2) * 50
    boxes = torch.cat((corners, corners + 1 + torch.rand(2000, 2) * 12), 1)
    assert math.isfinite(total(make(method=method), [target(boxes.tolist())]))


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_half_precision_and_recomputed_activations_change_little(make, task, method):
    # Few RoIs: convolutions of them in half precision take seconds on a CPU without the instructions for it.
    few = {"roi_batch_size": 4} if "roi_batch_size" in option_names(tasks.find(task, method).Config) else {}
    model = make(task, method, **few).train()
    targets = [target([[4, 4, 30, 40], [20, 30, 60, 60]]), target()]
    images = torch.randn(2, 3, 64, 64)

    def train(*, bf16: bool = False) -> tuple[float, torch.Tensor]:
        torch.manual_seed(0)  # RoIs are sampled at random
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = model.loss(images, targets)
        assert all(term.dtype == torch.float32 for term in terms.values()), terms
        total = sum(terms.values())
        total.backward()
        return float(total.detach()), next(model.backbone.parameters()).grad.clone()

    loss, gradient = train()
    rounded = train(bf16=True)[0]
    assert math.isfinite(rounded)
    if (task, method) not in TWO_STAGE:  # whose RoIs are others after rounding
        assert rounded == pytest.approx(loss, rel=0.1)
    model.checkpoint_activations(True)
    recomputed_loss, recomputed_gradient = train()
    assert recomputed_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(recomputed_gradient, gradient, rtol=1e-3, atol=1e-5)


def infer_empty(task, model):
    """The prediction for an image of 100 x 80 in which nothing must be detected."""
    with torch.inference_mode():
        (prediction,) = model.eval().infer(torch.randn(1, 3, 64, 64), [Frame((100, 80), (64, 51))])
    assert prediction.boxes.shape == (0, 4)
    assert prediction.scores.shape == prediction.labels.shape == (0,)
    if task == "instance":
        assert prediction.masks.dense().shape == (0, 100, 80)
    if task == "keypoints":
        assert prediction.keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_no_detections_are_an_empty_prediction(make, task, method):
    infer_empty(task, make(task, method, score_threshold=1.0))


@pytest.mark.parametrize(("task", "method"), TWO_STAGE)
def test_zero_proposals(make, task, method, monkeypatch):
    model = make(task, method)
    monkeypatch.setattr(model.rpn, "propose", lambda raw, anchors, sizes: [torch.zeros(0, 4) for _ in sizes])
    assert math.isfinite(total(model, [target(), target()]))
    assert math.isfinite(total(model, [target(), target([[4, 4, 30, 40]])]))
    infer_empty(task, model)


def test_the_papers_numbers():
    """Proposals in training and at test, and RoIs sampled, by default."""
    preprocess = Preprocess((1024, 1024), resize="shortest")
    for method, train, test, sampled in (("faster_rcnn", 2000, 1000, 512), ("faster_rcnn_c4", 2000, 300, 64)):
        torch.manual_seed(0)
        narrow = {} if method.endswith("_c4") else {"neck": {"channels": 16}, "box_width": 16}
        options = {"classes": 2, "backbone": "resnet18", "preprocess": preprocess, **narrow}
        model = tasks.create("detection", method=method, **options)
        assert model.config.max_detections == 100
        maps = model.features(torch.randn(1, 3, 512, 512))
        raw = [(torch.randn_like(logits), torch.zeros_like(deltas)) for logits, deltas in model.rpn.raw(maps)]
        grids = model.rpn.grids(raw, (4096, 4096))
        separate = [torch.cat((grid[:, :2], grid[:, :2] + 0.5), 1) for grid in grids]  # no two of a level overlap
        for training, count in ((True, train), (False, test)):
            model.rpn.train(training)
            (proposals,) = model.rpn.propose(raw, separate, [(4096, 4096)])
            assert len(proposals) == count
        stages, *_ = model.train().box_loss(maps, [grids[0][:1000]], [target([[4, 4, 30, 40]])], [(512, 512)])
        assert len(stages[0][0].boxes) == sampled


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "swin_tiny", "norm": "group"}, "norm is 'group', but swin_tiny has no batch norm"),
        (
            {"backbone": "vit_tiny_16", "neck": {"name": "fpn"}},
            "vit_tiny_16 has maps of one scale, of which fpn makes no pyramid: leave neck.name out",
        ),
    ],
)
def test_options_that_would_have_no_effect_are_refused(make, options, sentence):
    with pytest.raises(VertebraError) as caught:
        make(**options)
    assert sentence in str(caught.value)


def test_crowds_are_no_background():
    """RoIs in a crowd region are not sampled at all."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    options = {"iou": 0.5, "batch_size": 8, "positive_fraction": 0.25}
    (samples,) = sample_rois([boxes], [target([[0, 0, 20, 20]], crowd=[True])], 2, **options)
    assert samples.boxes.tolist() == [[40, 40, 50, 50]]
    assert samples.labels.tolist() == [2]


def test_predictions_are_in_pixels_of_the_original_image(make):
    model = make("keypoints", "keypoint_rcnn")
    boxes = torch.tensor([[[10.0, 20, 26, 36], [0.0, 0, 0, 0]]])  # the second slot is empty
    scores, labels = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2).long()
    heatmaps = torch.full((1, 2, 2, 8, 8), -9.0)
    heatmaps[0, :, :, 4, 4] = 9
    frame = Frame((200, 100), (64, 32))  # 3.125 pixels for one of the input's
    (prediction,) = model.decode((boxes, scores, labels, torch.tensor([1]), heatmaps), [frame])
    assert prediction.boxes.shape == (1, 4)
    assert prediction.boxes.tolist()[0] == pytest.approx([31.25, 62.5, 81.25, 112.5])
    assert prediction.keypoints[0, 0, :2].tolist() == pytest.approx([19 * 3.125, 29 * 3.125], abs=3.2)
    assert prediction.size == (200, 100)


def test_anchors_start_at_eight_cells(make):
    assert make().rpn.sides == [[32], [64], [128], [256], [512]]
    assert make(method="faster_rcnn_c4").rpn.sides == [[32, 64, 128, 256, 512]]
    sides = make(method="retinanet").dense.sides
    assert sides[0] == pytest.approx([32, 40.3, 50.8], abs=0.1)
    assert [level_sides[0] for level_sides in sides] == [32, 64, 128, 256, 512]


def test_necks(make):
    assert isinstance(make().neck, FPN)
    assert isinstance(make(backbone="hrnet_w18_small_v1", neck={"name": "hrfpn"}).neck, HRFPN)
    assert isinstance(make(backbone="vit_tiny_16", backbone_options={"depth": 1}).neck, SimplePyramid)
    with pytest.raises(VertebraError, match="hrfpn makes no pyramid"):
        make(backbone="vit_tiny_16", backbone_options={"depth": 1}, neck={"name": "hrfpn"})


def test_the_c4_form_runs_the_backbones_last_stage_on_rois(make):
    model = make(method="faster_rcnn_c4", backbone_options={})
    assert [level.stride for level in model.backbone.levels] == [2, 4, 8, 16]
    assert sum(p.numel() for p in model.stage.parameters()) == 8_393_728  # layer4 of ResNet-18
    (x,) = model.features(torch.randn(1, 3, 64, 64))
    assert x.shape == (1, 256, 4, 4)
    assert model.roi_features([x], [torch.tensor([[0.0, 0, 30, 30]])], 7).shape == (1, 512, 7, 7)


def norms(module) -> set[type]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(m) for m in module.modules() if isinstance(m, kinds)}


def test_norms(make):
    assert norms(make().backbone) == {nn.BatchNorm2d}
    assert norms(make(norm="frozen").backbone) == {FrozenBatchNorm2d}
    assert norms(make(norm="group").backbone) == {nn.GroupNorm}
    assert norms(make(norm="sync").backbone) == {nn.SyncBatchNorm}
    model = make("instance", "mask_rcnn", neck={"norm": "group"}, head_norm="batch", box_head="4conv1fc")
    assert norms(model.neck) == {nn.GroupNorm}
    assert norms(model.box) == norms(model.mask) == {nn.BatchNorm2d}
    assert norms(model.rpn) == set()


@pytest.mark.parametrize("norm", ["batch", "frozen", "group", "sync"])
def test_folding_changes_nothing(make, norm):
    model = make("instance", "mask_rcnn", norm=norm, neck={"norm": "batch"}, head_norm="batch").eval()
    for module in model.modules():  # statistics that are not those of the start
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        boxes, scores, _, counts, masks = model(images)
        folded = fold(model)(images)
    assert int(counts) > 0
    assert torch.equal(folded[3], counts)
    torch.testing.assert_close(folded[0], boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(folded[1], scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded[4], masks, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "method", "option", "owners"),
    [
        ("detection", "retinanet", {"rpn_num_convs": 2}, "cascade_rcnn, faster_rcnn_c4"),
        ("detection", "faster_rcnn", {"average": "logits"}, "cascade_rcnn"),
        ("detection", "faster_rcnn_c4", {"box_head": "4conv1fc"}, "cascade_rcnn"),
        ("detection", "faster_rcnn_c4", {"neck": {"channels": 16}}, "cascade_rcnn"),
        ("detection", "faster_rcnn_c4", {"neck.channels": 16}, "cascade_rcnn"),
        ("instance", "mask_rcnn", {"mask_stages": 1}, "cascade_mask_rcnn"),
    ],
)
def test_another_methods_option_is_refused_and_its_owner_named(make, task, method, option, owners):
    (name,) = option
    sentence = f"{name} is an option of .*{owners}.*, not of {method}, .*: leave it out, or choose method="
    with pytest.raises(VertebraError, match=sentence):
        make(task, method, **option)


def test_an_option_that_no_method_has(make):
    with pytest.raises(VertebraError, match=r"retinanet has no option 'loss_per_imag'.*Did you mean 'loss_per_image'"):
        make(method="retinanet", loss_per_imag=True)
    with pytest.raises(VertebraError, match=r"neck has no option 'chanels'.*Did you mean 'channels'"):
        make(neck={"chanels": 16})


@pytest.mark.parametrize("kind", ["class", "agnostic", "softmax"])
def test_kinds_of_masks(make, kind):
    model = make("instance", "mask_rcnn", classes=3, mask_head={"kind": kind})
    assert model.mask.logits.out_channels == {"class": 3, "agnostic": 1, "softmax": 4}[kind]
    logits = torch.zeros(2, model.mask.logits.out_channels, 4, 4)
    logits[0, -1] = 2.0  # softmax: the background; class: class 2
    probabilities = model.mask.probabilities(logits, torch.tensor([2, 0]))
    sigmoid = 1 / (1 + math.exp(-2))
    first = {"class": sigmoid, "agnostic": sigmoid, "softmax": 1 / (3 + math.exp(2))}[kind]
    assert float(probabilities[0, 0, 0]) == pytest.approx(first)
    assert float(probabilities[1, 0, 0]) == pytest.approx({"softmax": 0.25}.get(kind, 0.5))
    assert math.isfinite(total(model, [target([[4, 4, 30, 40]])]))


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_checkpoints_come_back_whole(make, task, method, tmp_path):
    model = make(task, method, classes=["cat", "dog"], norm="frozen").eval()
    checkpoint.save(model, tmp_path / "a.safetensors", metrics={"threshold": 0.25})
    again, about = checkpoint.load(tmp_path / "a.safetensors", device="cpu")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.classes == ("cat", "dog")
    assert again.preprocess == model.preprocess
    assert about["metrics"] == {"threshold": 0.25}
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for first, second in zip(model(images), again(images), strict=True):
            assert torch.equal(first, second)


SMALL_CYCLEMLP = {"backbone": "cyclemlp_b1", "backbone_options": {"depths": (1, 1, 1, 1)}}


def test_a_checkpoint_of_a_c4_form_that_started_from_weights(make, tmp_path):
    """No stage of CycleMLP can be taken off: the blocks for the RoIs are new, and their norms are not frozen."""
    classifier = tasks.create("classification", classes=5, **SMALL_CYCLEMLP)
    checkpoint.save(classifier, tmp_path / "a.safetensors")
    model = make(method="faster_rcnn_c4", **SMALL_CYCLEMLP, weights=tmp_path / "a.safetensors")
    assert norms(model.stage) == {nn.BatchNorm2d}
    checkpoint.save(model, tmp_path / "b.safetensors")
    again, _ = checkpoint.load(tmp_path / "b.safetensors", device="cpu")
    assert again.config == model.config


def test_the_next_run_computes_as_its_checkpoint_does(make, tmp_path):
    options = {"roi_align": {"aligned": False}, "anchors": {"offset": 0.0}, "drop_path": 0.1, "norm": "frozen"}
    first = make("instance", "mask_rcnn", **options)
    checkpoint.save(first, tmp_path / "a.safetensors")
    again = make("instance", "mask_rcnn", classes=7, weights=tmp_path / "a.safetensors", **{"anchors.offset": 0.25})
    config = again.config
    assert (config.roi_align.aligned, config.anchors.offset, config.drop_path) == (False, 0.25, 0.0)
    assert again.report.adapted["roi_align.aligned"] == "False, as the checkpoint has it"
    # Of another task, with the same parts.
    other = make("detection", "faster_rcnn", weights=tmp_path / "a.safetensors")
    assert not other.config.roi_align.aligned
    assert other.config.anchors.offset == 0.0


def test_how_a_backbone_computes_goes_on_to_other_tasks(make, tmp_path):
    options = {"backbone": "resnet50", "backbone_options": {"stride_first": True, "depths": (1, 1, 1, 1)}}
    checkpoint.save(tasks.create("classification", classes=2, **options), tmp_path / "a.safetensors")
    model = make(backbone="resnet50", weights=tmp_path / "a.safetensors")
    assert model.config.backbone_options == options["backbone_options"]
    assert [stage[0].conv1.conv.stride[0] for stage in model.backbone.stages] == [1, 2, 2, 2]
    assert model.report.adapted["stride_first"] == "True, as the checkpoint has it"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head_norm": "group"}, "head_norm is 'group', but there .* or choose box_head=4conv1fc"),
        (
            {"neck": {"norm": "batch"}, "backbone": "vit_tiny_16"},
            "neck.norm is 'batch', .* leave it out with vit_tiny_16",
        ),
    ],
)
def test_norms_that_have_no_place_are_refused(make, options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        make(**options)


def test_frozen_norms_keep_half_precision(make):
    model = make(norm="frozen")
    with torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in model.backbone(torch.randn(1, 3, 64, 64))} == {torch.bfloat16}


def test_a_classifiers_checkpoint_starts_a_detector(make, tmp_path):
    classifier = tasks.create("classification", backbone="resnet18", classes=5)
    checkpoint.save(classifier, tmp_path / "a.safetensors")
    model = make(weights=tmp_path / "a.safetensors")
    for name, parameter in classifier.backbone.named_parameters():
        assert torch.equal(model.backbone.state_dict()[name], parameter)
    assert model.config.norm == "frozen"
    assert norms(model.backbone) == {FrozenBatchNorm2d}
    assert any(name.startswith("rpn.") for name in model.report.new)
    assert "head.weight" in model.report.left_out


def test_a_detectors_checkpoint_starts_one_for_other_classes(make, tmp_path):
    first = make("instance", "mask_rcnn", classes=2)
    checkpoint.save(first, tmp_path / "a.safetensors")
    second = make("instance", "mask_rcnn", classes=3, weights=tmp_path / "a.safetensors")
    assert torch.equal(second.rpn.deltas.weight, first.rpn.deltas.weight)
    assert {"box.classify.weight", "box.deltas.weight", "mask.logits.weight"} <= set(second.report.new)
    with pytest.raises(VertebraError, match="another architecture"):
        make(backbone="resnet34", weights=tmp_path / "a.safetensors")


def test_preprocessing_follows_the_backbone():
    assert tasks.plan("detection", backbone="resnet18").preprocess == Preprocess((800, 1333), resize="shortest")
    assert tasks.plan("classification", backbone="resnet18").preprocess == Preprocess()
    for name in ("mixer_b16", "vip_small_7", "gmlp_s16", "resmlp_12"):
        assert tasks.plan("detection", backbone=name).preprocess.resize == "fit"


def test_a_backbone_of_one_size_needs_images_fitted(make):
    for name in ("mixer_b16", "vip_small_7", "gmlp_s16", "resmlp_12"):
        with pytest.raises(VertebraError, match="must be 'fit'"):
            make(backbone=name, preprocess=PREPROCESS)


def test_predict_takes_images_of_any_size(make):
    model = make("instance", "mask_rcnn", score_threshold=0.0).eval()
    images = [torch.zeros(3, 50, 40, dtype=torch.uint8), torch.zeros(1, 30, 90, dtype=torch.uint8)]
    first, second = model.predict(images)
    assert (first.size, second.size) == ((50, 40), (30, 90))
    assert len(first.boxes)
    assert first.masks.dense().shape[1:] == (50, 40)
    assert (second.boxes[:, 2] <= 90).all()


def test_padding_is_not_part_of_the_image(make):
    """Boxes end where the image does."""
    for method in ("faster_rcnn", "retinanet"):
        model = make(method=method, score_threshold=0.0).eval()
        images, frames = prepare_all([torch.zeros(3, 40, 90, dtype=torch.uint8)] * 2, model.preprocess)
        assert images.shape[-2:] == (64, 96)
        assert frames[0].resized == (42, 96)
        with torch.inference_mode():
            first, second = model.infer(images, [Frame((42, 96), (42, 96)), Frame((20, 30), (20, 30))])
        assert len(first.boxes)
        assert len(second.boxes)
        assert float(first.boxes[:, 3].max()) <= 42
        assert float(second.boxes[:, 2].max()) <= 30


def test_default_keypoints_are_those_of_people(make):
    model = make("keypoints", classes=1, keypoints=COCO_PERSON)
    assert tasks.plan("keypoints").config.keypoints == COCO_PERSON == model.keypoints
    assert model.keypoint.logits.out_channels == 17
    assert dataclasses.asdict(model.config)["keypoints"]["names"][0] == "nose"
    assert make(method="retinanet").keypoints is None


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_the_norms_of_neck_and_heads_are_those_chosen(make, task, method):
    known = option_names(tasks.find(task, method).Config)
    options = {"neck.norm": "group", "head_norm": "group", "box_head": "4conv1fc"}
    options = {name: value for name, value in options.items() if name in known}
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
        ({"method": "retina_net"}, r"detection has no method 'retina_net'; there are .*\. Did you mean 'retinanet'\?"),
        ({"neck": {"name": "hrfnp"}}, r"name is 'hrfnp'; there are .*\. Did you mean 'hrfpn'\?"),
        ({"box_head": "2cf"}, r"box_head is '2cf'; there are .*\. Did you mean '2fc'\?"),
        (
            {"method": "cascade_rcnn", "stage_weights": ((10.0, 10.0, 5.0, 5.0),)},
            r"four numbers above 0 for each of three",
        ),
        ({"method": "cascade_rcnn", "stage_weights": ((0.0, 1.0, 1.0, 1.0),) * 3}, r"four numbers above 0"),
        ({"norm": "frozen", "backbone": "vit_tiny_16"}, r"norm is 'frozen', but vit_tiny_16 has no batch norm"),
        ({"anchors": {"scale": 0.0}}, r"anchors.scale is 0; it must lie between 0.01 and 1,000"),
        ({"anchors": {"ratios": ()}}, r"anchors.ratios is \[\]; it must hold numbers in 0.001..1000, such as"),
        ({"roi_align": {"sampling_ratio": -1}}, r"roi_align.sampling_ratio is -1; it must lie between 0 and 100"),
        ({"roi_batch_size": 0}, r"roi_batch_size is 0; it must lie between 1 and 1,000,000"),
        ({"score_threshold": 2.0}, r"score_threshold is 2; it must lie between 0 and 1"),
        ({"min_box_size": -1.0}, r"min_box_size is -1; it must lie between 0 and 1,000,000"),
        ({"method": "retinanet", "pre_nms_top_n": 0}, r"pre_nms_top_n is 0; it must lie between 1 and 1,000,000"),
        ({"method": "retinanet", "extra_levels.source": "pyramd"}, r"Did you mean 'pyramid'"),
        ({"method": "retinanet", "box_loss.name": "gou"}, r"Did you mean 'giou'"),
        ({"method": "atss", "topk": 0}, r"topk is 0; it must lie between 1 and 1,000"),
        ({"method": "faster_rcnn_c4", "channels": 0}, r"channels is 0; it must lie between 1 and 65,536"),
    ],
)
def test_values_out_of_range(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("detection", **{"backbone": "resnet18", "classes": 2, **options})


@pytest.mark.parametrize("backbone", ["vit_tiny_16", "resnet18"])
def test_retinanets_maps_have_the_strides_of_its_anchors(backbone):
    inner = {"depth": 1} if backbone == "vit_tiny_16" else {}
    options = {"backbone": backbone, "backbone_options": inner, "classes": 2, "neck": {"channels": 32}}
    model = vertebra.create("detection", method="retinanet", **options)
    side = model.preprocess.size[0] if model.preprocess.resize == "fit" else 256
    maps = model.features(torch.zeros(1, 3, side, side))
    for level, x in zip(model.extra.levels, maps, strict=True):
        assert x.shape[-1] == -(-side // level.stride)


@pytest.mark.parametrize(("first", "then"), [("cascade_rcnn", "faster_rcnn_c4"), ("faster_rcnn_c4", "cascade_rcnn")])
def test_the_last_stage_goes_between_pyramids_and_c4(make, first, then, tmp_path):
    trained = make(method=first)
    checkpoint.save(trained, tmp_path / "a.safetensors")
    model = make(method=then, weights=tmp_path / "a.safetensors")
    place = {"cascade_rcnn": "backbone.stages.3.", "faster_rcnn_c4": "stage."}
    for name, tensor in trained.state_dict().items():
        if name.startswith(place[first]) and not name.endswith("num_batches_tracked"):
            assert torch.equal(model.state_dict()[place[then] + name.removeprefix(place[first])], tensor), name
    assert FrozenBatchNorm2d in norms(model)


def test_norms_that_were_not_loaded_are_not_frozen(make, tmp_path):
    """A file without the backbone's last stage, whose statistics would be those of no image."""
    classifier = tasks.create("classification", backbone="resnet18", classes=2)
    state = {name: x for name, x in classifier.backbone.state_dict().items() if not name.startswith("stages.3.")}
    names = {f"backbone.{name}": x for name, x in state.items()}
    plan = tasks.plan("detection", method="faster_rcnn_c4", backbone="resnet18")
    opened = weights.Checkpoint(tmp_path / "a", names, classifier.describe())
    model = make(method="faster_rcnn_c4", weights=opened)
    assert torch.equal(model.backbone.stem[0].conv.weight, state["stem.0.conv.weight"])
    assert norms(model.stage) == {nn.BatchNorm2d}
    assert model.config.norm == plan.config.norm == "auto"
    assert model.report.adapted["norm"].startswith("batch, because the checkpoint has no stages.3.")


@pytest.mark.parametrize(("norm", "given", "eps"), [("auto", None, 0.0), ("frozen", None, 0.0), ("frozen", 1e-3, 1e-3)])
def test_the_eps_of_torchvisions_first_detectors(norm, given, eps, torchvision_file):
    options = {} if given is None else {"norm_eps": given}
    model = vertebra.create("detection", norm=norm, weights=torchvision_file, **options)
    assert {module.eps for module in model.backbone.modules() if isinstance(module, FrozenBatchNorm2d)} == {eps}


def test_boxes_clipped_after_nms_have_no_empty_side(make):
    model = make(method="retinanet", classes=1, clip_after_nms=True).eval()
    with torch.no_grad():
        model.dense.classify.bias += 10  # all scores are near 1
        (prediction,) = model.infer(torch.zeros(1, 3, 64, 64), [Frame((64, 40), (64, 40))])
    sides = prediction.boxes[:, 2:] - prediction.boxes[:, :2]
    assert len(prediction.boxes)
    assert float(sides.min()) >= model.config.min_box_size
