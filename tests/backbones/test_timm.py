"""Models of timm as backbones: the contract for ten of them, timm's numbers, its weights, and every method."""

import copy
import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import vertebra
from vertebra import backbones, tasks, weights
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.engine.optim import parameter_groups
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess

SIDE = 64
TEN = {  # of different kinds, made small
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "vit_tiny_patch16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "coatnet_pico_rw_224": {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 64)},
    "mobilenetv4_conv_small_035": {},
    "regnetx_002": {},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 1, 1, 1)},
    "hiera_tiny_224": {"stages": (1, 1, 1, 1), "embed_dim": 16},
    "mambaout_femto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "xcit_nano_12_p16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2, "cls_attn_layers": 1},
}
ONE_SIZE = ("coatnet_pico_rw_224", "hiera_tiny_224")


def small(model, **options):
    return backbones.create(f"timm:{model}", arguments=TEN[model], image_size=(SIDE, SIDE), **options)


def lively(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights that matter, and layer scales that are not nearly zero."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" not in name:
            parameter.data.normal_(0.1, 0.3)
    return model


@pytest.mark.parametrize("model", TEN)
def test_contract(model):
    backbone = small(model, channels=5, embedding=True)
    size = (SIDE, SIDE) if model in ONE_SIZE else (71, 100)
    assert backbone.any_size == (model not in ONE_SIZE)
    assert backbones.takes_any_size(f"timm:{model}") == backbone.any_size
    features = []
    images = torch.randn(2, 5, *size)
    vector = backbone.eval().pool(backbone.forward_features(images, features.append))
    strides = [level.stride for level in backbone.levels]
    assert strides == ([16] if model.startswith(("vit", "xcit")) else sorted(set(strides)))
    for level, feature in zip(backbone.levels, features, strict=True):
        assert list(feature.shape) == [2, level.channels, *(-(-side // level.stride) for side in size)]
    if backbone.any_size and backbone.geometry.padded:
        whole = backbone(nn.functional.pad(images, (0, -100 % strides[-1], 0, -71 % strides[-1])))
        for feature, larger in zip(features, whole, strict=True):
            torch.testing.assert_close(feature, larger[:, :, : feature.shape[2], : feature.shape[3]])
    assert list(vector.shape) == [2, backbone.width]

    held = [id(p) for layer in backbone.layers() for p in layer.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in backbone.parameters()}
    assert len(backbone.layers()) > 2
    assert backbone.first_conv in backbone.state_dict()
    assert set(backbone.no_weight_decay) == {
        n.rpartition(".")[2] for n in getattr(backbone.net, "no_weight_decay", set)()
    }

    bare = small(model, channels=5)
    missing = set(dict(backbone.named_parameters())) - set(dict(bare.named_parameters()))
    assert missing == set(bare.embedding_only)
    sum(feature.mean() for feature in bare(torch.randn(2, 5, SIDE, SIDE))).backward()
    assert all(p.grad is not None for p in bare.parameters())
    with pytest.raises(VertebraError, match="pass embedding=True"):
        bare.embed(torch.zeros(1, 5, SIDE, SIDE))


@pytest.mark.parametrize("model", TEN)
def test_the_numbers_are_timms(model):
    backbone = lively(small(model, embedding=True)).eval()
    arguments = {k: v for k, v in backbone.geometry.arguments.items() if k == "img_size"}
    theirs = timm.create_model(model, num_classes=7, **TEN[model], **arguments).eval()
    theirs.load_state_dict(backbone.net.state_dict(), strict=False)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        vector = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.embed(images), vector)
        maps = theirs.forward_intermediates(images, indices=backbone.indices, intermediates_only=True)
        bare = small(model).eval()  # without its embedding layers
        bare.load_state_dict(
            {name: tensor for name, tensor in backbone.state_dict().items() if name in bare.state_dict()}
        )
        for ours in (backbone, bare):
            for a, b in zip(ours(images), maps, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224", "regnetx_002"])
def test_checkpointing_gives_the_same_gradients_and_statistics(model):
    first = lively(small(model)).train()
    second = copy.deepcopy(first)
    second.checkpointing = True
    images = torch.randn(2, 3, SIDE, SIDE)
    for backbone in (first, second):
        sum(feature.square().mean() for feature in backbone(images)).backward()
    for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for (key, a), b in zip(first.named_buffers(), second.named_buffers(), strict=True):
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b[1], msg=key)


def test_checkpointing_is_timms():
    backbone = small("convnext_atto")
    backbone.checkpointing = True
    assert all(stage.grad_checkpointing for stage in backbone.net.stages)


def test_stochastic_depth_is_passed_on():
    torch.manual_seed(0)
    model = small("convnext_atto", drop_path=0.5).train()
    images = torch.randn(16, 3, SIDE, SIDE)
    lively(model)
    with torch.no_grad():
        assert not torch.equal(model(images)[-1], model(images)[-1])
        model.eval()
        assert torch.equal(model(images)[-1], model(images)[-1])
    with pytest.raises(VertebraError, match=r"timm cannot make dla34.*drop_path_rate"):
        backbones.create("timm:dla34", drop_path=0.1)


def test_learning_rates_fall_layer_by_layer():
    task = tasks.create(
        "classification",
        backbone="timm:vit_tiny_patch16_224",
        backbone_options={"arguments": TEN["vit_tiny_patch16_224"]},
        classes=3,
    )
    groups = parameter_groups(task, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    net, layers = task.backbone.net, len(task.backbone.layers())
    assert rates[id(net.pos_embed)] == (0.5**layers, 0.0)
    assert rates[id(net.blocks[0].attn.qkv.weight)] == (0.5 ** (layers - 1), 0.1)
    assert rates[id(net.blocks[1].attn.qkv.weight)] == (0.5 ** (layers - 2), 0.1)
    assert rates[id(task.head.weight)] == (1.0, 0.1)


# -- names and options


def test_unknown_names_are_explained():
    with pytest.raises(VertebraError, match=r"timm has no model 'convnext_tny'.*Did you mean 'convnext_tiny'"):
        backbones.create("timm:convnext_tny")
    with pytest.raises(VertebraError, match=r"timm:convnext_tiny is the model of that name in timm"):
        backbones.create("convnext_tiny")
    with pytest.raises(VertebraError, match=r"is a checkpoint: name the backbone timm:convnext_tiny, and weights="):
        backbones.create("timm:convnext_tiny.fb_in1k")
    with pytest.raises(VertebraError, match="works only at the input size that it was built for, 64 x 64"):
        small("hiera_tiny_224")(torch.zeros(1, 3, 96, 96))
    assert backbones.names() == [name for name in backbones.names() if ":" not in name]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"pretrained": True}, "arguments.'pretrained' cannot be set"),
        ({"checkpoint_path": "evil.pth"}, "arguments.'checkpoint_path' cannot be set"),
        ({"pretrained_cfg_overlay": "x"}, "cannot be set"),
        ({"img_size": 64}, "arguments.img_size is the option image_size"),
        ({"depths": {"class_path": "evil.Module"}}, "arguments.'depths' is"),
        ({"dephts": (1, 1, 1, 1)}, "timm cannot make convnext_atto: .*dephts"),
    ],
)
def test_arguments_that_are_refused(arguments, match):
    with pytest.raises(VertebraError, match=match):
        backbones.create("timm:convnext_atto", arguments=arguments)


@pytest.mark.parametrize("model", ["hf-hub:owner/name", "local-dir:/tmp", "resnet18.a1_in1k", "zz"])
def test_models_of_other_places_are_not_fetched(model):
    """An option of the backbone can be from a file."""
    with pytest.raises(VertebraError, match=r"timm has no model|is a checkpoint"):
        backbones.create("timm:resnet18", model=model)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    module = backbones.library("timm:")
    module._names.cache_clear()
    with pytest.raises(VertebraError, match=r"need the library timm: pip install 'vertebra\[timm\]'"):
        vertebra.backbone("timm:resnet18")
    with pytest.raises(VertebraError, match="no backbone is named 'convnext_tiny'"):
        vertebra.backbone("convnext_tiny")
    module._names.cache_clear()


def test_models_lists_them(capsys):
    assert main(["models", "timm:convnext_a*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name": "timm:convnext_atto", "image_size": 224, "weights": ["d2_in1k"]} in rows
    assert all(row["name"].startswith("timm:convnext_a") for row in rows)
    assert main(["models", "timm:nonsuch"]) == 2
    assert "timm has no model 'nonsuch'" in capsys.readouterr().err
    assert main(["models", "tim:conv"]) == 2
    assert "names no library" in capsys.readouterr().err


# -- weights


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub has any repository, with the tensors of `serve(model)`, which returns that model of timm."""
    names = []

    def serve(model, **arguments):
        theirs = lively(timm.create_model(model, **arguments)).eval()
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
        monkeypatch.setattr(
            weights.locate, "_from_hub", lambda name, files: names.append(name) or tmp_path / "model.safetensors"
        )
        return theirs

    serve.names = names
    return serve


def test_stages_are_timms():
    """Each layer of layer-wise decay is in the stage that timm gives it; ViTs have four parts of as many blocks. timm
    does not say what the layers of PoolFormer are."""
    models = {"resnet18": [f"layer{i}" for i in range(1, 5)], "convnext_atto": range(4), "poolformer_s12": range(4)}
    for name, expected in models.items():
        with torch.device("meta"):
            model = backbones.create(f"timm:{name}")
        named = {id(p): n for n, p in model.net.named_parameters()}
        for stage, part in zip(model.stage_layers(), expected, strict=True):
            names = {named[id(p)] for layer in stage for p in layer.parameters() if id(p) in named}
            inside = {n for n in named.values() if n.startswith((f"{part}.", f"stages.{part}."))}
            assert inside == {n for n in names if n.startswith(("layer", "stages."))}
    with torch.device("meta"):
        counts = [len(s) for s in backbones.create("timm:vit_tiny_patch16_224", embedding=True).stage_layers()]
    assert counts == [4, 3, 3, 3]


def test_weights_by_name_bring_backbone_classifier_and_preprocessing(hub):
    theirs = hub("convnext_atto")
    task = vertebra.create("classification", weights="timm:convnext_atto.d2_in1k").eval()
    assert hub.names == ["timm/convnext_atto.d2_in1k"]
    assert task.config.backbone == "timm:convnext_atto"
    assert not task.report.new
    assert not task.report.left_out
    assert (task.preprocess.size, task.preprocess.crop) == ((288, 288), 0.95)
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(task(images)[0], theirs(images))

    backbone = vertebra.backbone("timm:convnext_atto", weights="timm/convnext_atto.d2_in1k", channels=1)
    assert backbone.report.adapted == {"net.stem.0.weight": "3 input channels -> 1"}
    assert all(name.startswith(("head.", "net.head.")) for name in backbone.report.left_out)
    assert hub.names[-1] == "timm/convnext_atto.d2_in1k"


def test_position_tables_are_resized_to_the_image_size(hub):
    theirs = hub("vit_tiny_patch16_224", depth=1)
    task = vertebra.create(
        "classification",
        backbone="timm:vit_tiny_patch16_224",
        backbone_options={"arguments": {"depth": 1}},
        weights="timm:vit_tiny_patch16_224",
        preprocess=Preprocess((96, 96)),
    ).eval()
    assert not task.report.left_out
    assert list(task.backbone.net.pos_embed.shape) == [1, 37, 192]
    resized = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1).eval()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), resized)
    resized.load_state_dict(filtered)
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(task(images)[0], resized(images))


def test_unknown_weights_are_answered_with_the_nearest():
    with pytest.raises(VertebraError, match=r"Did you mean 'timm:convnext_atto.d2_in1k'"):
        vertebra.create("classification", backbone="timm:convnext_atto", weights="timm:convnext_atto.d2_in2k")


def test_a_saved_model_is_loaded(tmp_path):
    options = {"arguments": TEN["regnetx_002"]}
    for task, extra in (
        ("classification", {}),
        ("detection", {"norm": "frozen", "box_width": 8, "neck": {"channels": 8}}),
    ):
        made = tasks.create(
            task,
            backbone="timm:regnetx_002",
            backbone_options=options,
            classes=["a", "b"],
            preprocess=Preprocess((SIDE, SIDE), resize="crop" if task == "classification" else "fit"),
            **extra,
        )
        checkpoint.save(lively(made).eval(), tmp_path / f"{task}.safetensors")
        loaded, _ = checkpoint.load(tmp_path / f"{task}.safetensors", device="cpu")
        images = torch.randn(1, 3, SIDE, SIDE)
        with torch.no_grad():
            for a, b in zip(made(images), loaded(images), strict=True):
                torch.testing.assert_close(a, b)
    predictor = vertebra.load(tmp_path / "classification.safetensors", device="cpu")
    assert len(predictor.predict(torch.rand(3, SIDE, SIDE))) == 1


# -- tasks


def test_images_are_fitted_for_a_model_of_one_size():
    with torch.device("meta"):
        made = tasks.create("detection", backbone="timm:hiera_tiny_224", classes=2)
    assert (made.preprocess.resize, made.preprocess.size) == ("fit", (224, 224))


def test_it_is_exported():
    task = tasks.create(
        "classification",
        backbone="timm:convnext_atto",
        backbone_options={"arguments": TEN["convnext_atto"]},
        classes=3,
        preprocess=Preprocess((SIDE, SIDE)),
    )
    task = lively(task).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        exported = torch.export.export(task, (images,)).module()
        torch.testing.assert_close(task(images)[0], exported(images)[0])
