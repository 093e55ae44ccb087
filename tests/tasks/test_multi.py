"""Several heads over one backbone: one pass, tensors that stand once, heads taken out, and what cannot be shared."""

import copy

import pytest
import torch

from vertebra import backbones, tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess, Target
from vertebra.tasks import multi

SQUASH = Preprocess(size=(32, 32), resize="squash")
TRUNK = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1), **multi.TRUNK_OPTIONS}}
LIGHT = {"neck": {"channels": 8}, "box_width": 8, "rpn_post_nms_top_n_test": 5, "norm": "batch"}
HEADS = {
    "kinds": ("classification", None, {}),
    "maps": ("semantic", "semantic_fpn", {"channels": 8}),
    "boxes": ("detection", "faster_rcnn", LIGHT),
}


def plans(**changes):
    chosen = {name: (task, method, {**TRUNK, **options}) for name, (task, method, options) in HEADS.items()}
    chosen |= {name: (task, method, {**TRUNK, **options}) for name, (task, method, options) in changes.items()}
    return {name: tasks.plan(t, method=m, classes=("a", "b"), **options) for name, (t, m, options) in chosen.items()}


def build(planned, share_necks=True, **preprocess):
    return multi.build(planned, {name: preprocess.get(name, SQUASH) for name in planned}, share_necks=share_necks)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(plans()).eval()


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
FRAMES = [Frame((32, 32), (32, 32))] * 2


def test_the_tensors_of_the_backbone_stand_once(model):
    names = model.state_dict().keys()
    assert not [name for name in names if name.startswith("heads.") and ".backbone." in name]
    assert len([name for name in names if name.startswith("backbone.")]) == len(model.backbone.state_dict())
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_images_pass_the_backbone_once_and_all_heads_predict_as_by_themselves(model):
    passes = []
    hook = model.backbone.stages[0][0].register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        together = model.infer_heads(IMAGES, FRAMES)
        assert len(passes) == 1
        alone = {name: model.take_out(name).infer(IMAGES, FRAMES) for name in HEADS}
    hook.remove()
    assert len(passes) == 4
    for name, field in (("kinds", "probabilities"), ("maps", "semantic"), ("boxes", "scores")):
        for one, other in zip(together[name], alone[name], strict=True):
            assert torch.equal(getattr(one, field), getattr(other, field)), name


def test_a_head_is_taken_out_as_a_model_of_its_own(model, tmp_path):
    saved = {"metrics": {"mean": 0.5, "boxes/threshold": 0.3, "kinds/top1": 0.7}, "epoch": 4}
    model.origins["boxes"] = {"data": {"path": "there"}}
    checkpoint.save(model, tmp_path / "all.safetensors", **saved)
    assert checkpoint.has_heads(tmp_path / "all.safetensors")
    boxes, about = checkpoint.load(tmp_path / "all.safetensors", head="boxes")
    assert (about["metrics"], about["epoch"], about["data"]) == ({"threshold": 0.3}, 4, {"path": "there"})
    checkpoint.save(boxes, tmp_path / "boxes.safetensors", metrics=about["metrics"])
    assert not checkpoint.has_heads(tmp_path / "boxes.safetensors")
    single, about = checkpoint.load(tmp_path / "boxes.safetensors")
    assert (about["task"], about["metrics"]) == ("detection", {"threshold": 0.3})
    with torch.inference_mode():
        for one, other in zip(single.infer(IMAGES, FRAMES), model.infer_heads(IMAGES, FRAMES)["boxes"], strict=True):
            assert torch.equal(one.boxes, other.boxes)
    with pytest.raises(
        VertebraError, match=r"has the heads kinds, maps, boxes: take one out first, with `vertebra exp"
    ):
        checkpoint.load(tmp_path / "all.safetensors")
    with pytest.raises(VertebraError, match=r"head is 'box'; there are kinds, maps, boxes\. Did you mean 'boxes'"):
        checkpoint.load(tmp_path / "all.safetensors", head="box")
    with pytest.raises(VertebraError, match="has no heads: it is of one model for detection"):
        checkpoint.load_heads(tmp_path / "boxes.safetensors")


@pytest.fixture(scope="module")
def alike():
    """Two detectors and a segmenter whose pyramids are built alike, and a detector with another one."""
    torch.manual_seed(0)
    masks = {**LIGHT, "mask_head.channels": 8}
    changes = {
        "maps": ("semantic", "semantic_fpn", {"channels": 8, "neck_channels": 8}),
        "masks": ("instance", "mask_rcnn", masks),
        "wide": ("detection", "faster_rcnn", {**LIGHT, "neck": {"channels": 16}}),
    }
    return plans(**changes)


def test_heads_whose_necks_are_alike_read_one(alike, tmp_path):
    model = build(alike).eval()
    assert model.shared_necks == [model.heads["maps"].fpn]
    assert model.heads["boxes"].neck is model.heads["masks"].neck is model.heads["maps"].fpn
    assert model.heads["wide"].neck is not model.heads["boxes"].neck
    names = model.state_dict().keys()
    assert {n.split(".")[1] for n in names if ".neck." in n or ".fpn." in n} == {"maps", "wide"}
    apart = build(alike, share_necks=False)
    assert not apart.shared_necks
    saved = sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in model.parameters())
    assert saved == 2 * sum(p.numel() for p in model.heads["maps"].fpn.parameters())

    passes = []
    hook = model.heads["maps"].fpn.output[0].register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        together = model.infer_heads(IMAGES, FRAMES)
        assert len(passes) == 1
        model.infer_heads(IMAGES, FRAMES)
        assert len(passes) == 2
    hook.remove()
    checkpoint.save(model, tmp_path / "all.safetensors")
    loaded, _ = checkpoint.load_heads(tmp_path / "all.safetensors")
    assert len(loaded.shared_necks) == 1
    for name in ("boxes", "masks", "wide"):
        alone, _ = checkpoint.load(tmp_path / "all.safetensors", head=name)
        checkpoint.save(alone, tmp_path / f"{name}.safetensors")
        for single in (alone, checkpoint.load(tmp_path / f"{name}.safetensors")[0]):
            with torch.inference_mode():
                predictions = single.infer(IMAGES, FRAMES)
            for one, other in zip(predictions, together[name], strict=True):
                assert torch.equal(one.boxes, other.boxes), name


def test_a_checkpoint_with_necks_apart_is_read(alike, tmp_path):
    checkpoint.save(build(alike, share_necks=False), tmp_path / "all.safetensors")
    assert not checkpoint.load_heads(tmp_path / "all.safetensors")[0].shared_necks


def test_a_shared_neck_has_the_weights_of_a_checkpoint(alike, tmp_path):
    boxes = tasks.create("detection", classes=("a", "b"), **TRUNK, **LIGHT)
    checkpoint.save(boxes, tmp_path / "boxes.safetensors")
    filled = {**TRUNK, **LIGHT, "weights": tmp_path / "boxes.safetensors"}
    model = build({**alike, "boxes": tasks.plan("detection", method="faster_rcnn", classes=("a", "b"), **filled)})
    assert torch.equal(model.heads["maps"].fpn.lateral[0].conv.weight, boxes.neck.lateral[0].conv.weight)
    assert model.state_dict().keys() == build(alike).state_dict().keys()


def test_gradients_of_all_heads_reach_a_shared_neck(alike):
    model = build(alike).eval()
    weight = model.heads["maps"].fpn.lateral[0].conv.weight
    target = Target(boxes=torch.tensor([[4.0, 4, 28, 28]]), labels=torch.tensor([1]))
    sum(model.heads["boxes"].loss(IMAGES[:1], [target]).values()).backward()
    assert weight.grad.abs().sum() > 0


def test_a_copy_shares_its_backbone_with_its_heads(model):
    other = copy.deepcopy(model)  # as weight averaging makes it
    assert other.heads["kinds"].backbone is other.backbone
    assert other.backbone is not model.backbone


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"boxes": ("detection", "faster_rcnn_c4", {"norm": "batch"})}, r"head 'boxes' cannot share .* other layers"),
        ({"maps": ("semantic", "fcn", {"channels": 8, "output_stride": 8})}, "'maps' cannot share .* output_stride=8"),
        ({"maps": ("semantic", "fcn", {"output_stride": 32, "norm": "group"})}, "'maps' cannot share .* other layers"),
        (
            {"maps": ("semantic", "fcn", {"output_stride": 32, "drop_path": 0.2})},
            r"'maps' cannot share .*drop_path=0\.2",
        ),
    ],
)
def test_methods_that_build_another_backbone_are_refused(changes, sentence):
    with pytest.raises(VertebraError, match=sentence):
        build(plans(**changes))


def test_heads_that_want_different_inputs_are_refused_naming_both():
    planned = {name: plan for name, plan in plans().items() if name != "boxes"}
    with pytest.raises(
        VertebraError, match=r"heads 'kinds' and 'maps' want different inputs, 32 x 32 pixels by squash .*"
    ):
        build(planned, maps=Preprocess(size=(64, 64), resize="squash"))


@pytest.mark.parametrize("name", ["a.b", "", "1", "keys", "mean", "x" * 41, "ä"])
def test_names_that_cannot_be_used_are_refused(name):
    with pytest.raises(VertebraError, match="a head is named"):
        multi.check_names({name: 1})


def test_what_passes_a_backbone_together_is_given_out_apart():
    torch.manual_seed(0)
    backbone = backbones.create("resnet18", depths=(1, 1, 1, 1)).train()
    first, second, larger = torch.rand(2, 3, 32, 32), torch.rand(3, 3, 32, 32), torch.rand(1, 3, 64, 64)
    expected = copy.deepcopy(backbone)(torch.cat([first, second]))
    with backbone.sharing([first, second, larger]):
        maps = [backbone(first), backbone(second), backbone(larger)]
        embedded = backbone.embed(second)
    for level, one, other in zip(expected, maps[0], maps[1], strict=True):
        assert torch.equal(level, torch.cat([one, other]))
    assert torch.equal(embedded, expected[-1][2:].mean((2, 3)))
    assert maps[2][0].shape[2:] == (32, 32)
    assert "forward_features" not in vars(backbone)


def test_the_loss_of_a_head_is_that_of_its_model():
    torch.manual_seed(0)
    model = build({"kinds": plans()["kinds"]})
    targets = [Target(label=torch.tensor(0)), Target(label=torch.tensor(1))]
    with model.backbone.sharing([IMAGES]):
        loss = model.head("kinds").loss(IMAGES, targets)["classification"]
    assert torch.equal(loss, model.take_out("kinds").loss(IMAGES, targets)["classification"])
