"""What only some families have: views, tokens, tables of positions, and how checkpoints of other libraries set them."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import SwinTransformer

from vertebra import backbones, weights
from vertebra.backbones.swin import shifted_axes
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make(name, **options):
    torch.manual_seed(0)
    return backbones.create(name, image_size=(64, 64), **options).eval()


def save(model, path, name, **options):
    """A checkpoint of ours of a backbone, as a task of it would describe itself."""
    about = {
        "task": "classification",
        "model": {"backbone": name, "backbone_options": options},
        "preprocess": dataclasses.asdict(Preprocess()),
    }
    save_file(model.state_dict(), path, metadata={"vertebra": json.dumps(about)})
    return path


def fit(name, state, source=None, **options):
    return backbones.fit_state(name, state, source=source, path="file", **options)


def test_the_views_of_hrnet():
    expected = {
        "branches": [(4, 16), (8, 32), (16, 64), (32, 128)],
        "v1": [(4, 16)],
        "v2": [(4, 240)],
        "increased": [(4, 128), (8, 256), (16, 512), (32, 1024)],
    }
    for view, levels in expected.items():
        model = make("hrnet_w18_small_v1", view=view)
        assert [(level.stride, level.channels) for level in model.levels] == levels
        with torch.no_grad():
            assert [x.shape[1] for x in model(IMAGES)] == [channels for _, channels in levels]
    branches, v1 = make("hrnet_w18_small_v1"), make("hrnet_w18_small_v1", view="v1")
    extra = set(branches.state_dict()) - set(v1.state_dict())
    assert extra
    assert all(".exchange.paths." in key and key.startswith("stages.2.0") for key in extra)
    v1.load_state_dict({k: v for k, v in branches.state_dict().items() if k not in extra})
    with torch.no_grad():
        torch.testing.assert_close(v1(IMAGES)[0], branches(IMAGES)[0])
        v2 = make("hrnet_w18_small_v1", view="v2")
        v2.load_state_dict(branches.state_dict())
        torch.testing.assert_close(v2(IMAGES)[0][:, :16], branches(IMAGES)[0])
    with pytest.raises(VertebraError, match="v1 view has only the highest branch"):
        make("hrnet_w18_small_v1", view="v1", embedding=True)


def test_the_embeddings_of_vit():
    token, mean = (make("vit_tiny_16", depth=1, embedding=True, pool=pool) for pool in ("token", "mean"))
    mean.load_state_dict(token.state_dict())
    with torch.no_grad():
        x, _ = token.stem(IMAGES)
        x = token.blocks[0](x)  # [2, 1 + 16, C]
        torch.testing.assert_close(token.embed(IMAGES), token.norm(x[:, 0]))
        torch.testing.assert_close(mean.embed(IMAGES), token.norm(x[:, 1:].mean(1)))
        torch.testing.assert_close(token(IMAGES)[0], x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))


def test_a_distilled_model_averages_two_classifiers():
    from vertebra import tasks

    options = {"backbone": "deit_tiny_16_distilled", "classes": 5, "backbone_options": {"depth": 2}}
    task = tasks.plan("classification", **options).build(Preprocess((64, 64))).eval()
    with torch.no_grad():
        logits = task.head.logits(task.backbone.embed(IMAGES))
        assert logits.shape == (2, 2, 5)
        torch.testing.assert_close(task(IMAGES)[0], logits.mean(1))
    assert {"head.0.weight", "head.1.bias"} <= set(task.state_dict())
    with pytest.raises(VertebraError, match="pool=mean does not apply"):
        make("deit_tiny_16_distilled", pool="mean")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("vit_tiny_16", {"pool": "men"}, r"pool is 'men'; there are token, mean. Did you mean 'mean'"),
        ("vit_tiny_16", {"gelu": "fast"}, "gelu is 'fast'; there are none, tanh"),
        ("hrnet_w18", {"view": "v3"}, "view is 'v3'"),
        ("hrnet_w18", {"upsample": "linear"}, "Did you mean 'bilinear'"),
        ("asmlp_tiny", {"shift": 4}, "shift is 4"),
        ("vip_small_7", {"image_size": (64, 96)}, "square grid"),
        ("vip_small_14", {"image_size": (70, 70)}, "grid of 5 x 5"),
    ],
)
def test_impossible_options_are_explained(name, options, sentence):
    with pytest.raises(VertebraError, match=sentence), torch.device("meta"):
        backbones.create(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "changed"),
    [
        ("vit_tiny_16", {"depth": 1}, "stem.position"),
        ("deit_tiny_16_distilled", {"depth": 1}, "stem.position"),
        ("swin_tiny", {"depths": (1, 1, 1, 1), "absolute": True}, "stem.position"),
    ],
)
def test_positions_of_another_size_are_resampled_on_loading(tmp_path, name, options, changed):
    large = backbones.create(name, image_size=(96, 96), **options)
    small = make(name, **options)
    report = small.load(save(large, tmp_path / "large.safetensors", name, image_size=[96, 96], **options))
    assert report.adapted.keys() == {changed, "image_size"}
    assert "grid of" in report.adapted[changed]
    with torch.no_grad():  # and the model itself resamples in the same way
        torch.testing.assert_close(small(IMAGES)[-1], large.eval()(IMAGES)[-1], rtol=1e-4, atol=1e-5)


def test_window_biases_are_resampled_on_loading(tmp_path):
    options = {"depths": (1, 1, 1, 1)}
    path = save(make("swin_tiny", **options), tmp_path / "m.safetensors", "swin_tiny", **options)
    report = make("swin_tiny", window=4, **options).load(path)
    assert len(report.adapted) == 4
    assert set(report.adapted.values()) == {"biases of windows of 7 -> 4 cells"}


def test_the_source_decides_the_options_that_its_models_compute_with(tmp_path):
    """transformers' ViT has another eps in its norms; a backbone that is created from it has that too."""
    plain = make("vit_tiny_16", depth=4, embedding=True)
    assert plain.blocks[0].norm1.eps == 1e-6
    path = _transformers(plain, tmp_path / "hf.safetensors")
    model = backbones.create("vit_tiny_16", weights=path, depth=4, embedding=True, image_size=(64, 64))
    assert model.report.source == "transformers"
    assert model.report.adapted["eps"] == "1e-12, as transformers computes it"
    assert model.blocks[3].norm2.eps == model.norm.eps == model.config.eps == 1e-12
    with pytest.raises(VertebraError, match=r"hf.safetensors \(transformers names\) is of a model with eps=1e-12"):
        plain.load(path)
    assert plain.report is None
    model.load(path, source="transformers")
    again = save(model, tmp_path / "best.safetensors", "vit_tiny_16", depth=4, eps=1e-12)
    assert make("vit_tiny_16", weights=again, embedding=True).blocks[3].norm2.eps == 1e-12


def test_a_task_keeps_the_options_of_its_weights(tmp_path):
    from vertebra import tasks
    from vertebra.engine import checkpoint

    path = _transformers(make("vit_tiny_16", depth=4, embedding=True), tmp_path / "hf.safetensors")
    options = {"backbone": "vit_tiny_16", "classes": 3, "backbone_options": {"depth": 4}}
    task = tasks.plan("classification", weights=path, **options).build(Preprocess((64, 64)))
    checkpoint.save(task, tmp_path / "best.safetensors")
    again, _ = checkpoint.load(tmp_path / "best.safetensors", device="cpu")
    for backbone in (task.backbone, again.backbone):
        assert backbone.blocks[3].norm2.eps == backbone.norm.eps == backbone.config.eps == 1e-12


def test_options_of_the_user_win_over_those_of_the_source(tmp_path):
    """Also where they equal the default."""
    plain = make("vit_tiny_16", depth=1)
    path = _transformers(plain, tmp_path / "hf.safetensors")
    model = make("vit_tiny_16", weights=path, depth=1, eps=1e-6)
    assert model.config.eps == model.blocks[0].norm1.eps == 1e-6
    assert "eps" not in model.report.adapted
    fitted = backbones.fit("vit_tiny_16", weights.open_checkpoint(path), depth=1)
    assert fitted.options == {"eps": 1e-12}
    assert backbones.fit("vit_tiny_16", weights.open_checkpoint(path), depth=1, eps=1e-5).options == {}
    assert fitted.state.keys() == plain.state_dict().keys()


def _transformers(backbone, path):
    state = {}
    for key, tensor in backbone.state_dict().items():
        name = key.replace("stem.class_token", "embeddings.cls_token").replace(
            "stem.position", "embeddings.position_embeddings"
        )
        name = name.replace("stem.patches", "embeddings.patch_embeddings.projection").replace(
            "blocks.", "encoder.layer."
        )
        name = name.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
        name = name.replace(".mlp.expand.", ".intermediate.dense.").replace(".mlp.project.", ".output.dense.")
        name = name.replace(".attention.project.", ".attention.output.dense.")
        name = "layernorm." + name[5:] if name.startswith("norm.") else name
        if ".attention.qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state["vit." + name.replace(".attention.qkv.", f".attention.attention.{part}.")] = piece.clone()
        else:
            state[f"vit.{name}"] = tensor.clone()
    save_file(state, path)
    return path


def test_tables_and_tokens_are_not_decayed():
    from vertebra import tasks
    from vertebra.engine.optim import parameter_groups

    for name, options in (("vit_tiny_16", {"depth": 1}), ("swin_tiny", {"depths": (1, 1, 1, 1), "absolute": True})):
        task = tasks.create("classification", backbone=name, classes=3, backbone_options=options)
        decayed = {
            id(p)
            for group in parameter_groups(task, lr=1.0, weight_decay=0.1)
            if group["weight_decay"]
            for p in group["params"]
        }
        for key, parameter in task.named_parameters():
            last = key.rpartition(".")[2]
            plain = parameter.ndim > 1 and last not in ("position", "class_token", "bias_table")
            assert (id(parameter) in decayed) == plain, key


def test_maps_of_one_window_along_one_axis_are_torchvisions():
    """112 x 448 pixels: the third stage is 7 x 28, one window high, which is shifted sideways alone."""
    torch.manual_seed(0)
    theirs = SwinTransformer([4, 4], 16, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], stochastic_depth_prob=0.0).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    options = {"width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)}
    fitted = fit("swin_tiny", theirs.state_dict(), **options)
    assert fitted.report.source == "torchvision"
    assert fitted.options == {}
    ours = backbones.create("swin_tiny", embedding=True, **options).eval()
    ours.fill(fitted.state, fitted.report)
    images = torch.randn(1, 3, 112, 448)
    with torch.no_grad():
        expected = theirs.norm(theirs.features(images)).mean((1, 2))
        torch.testing.assert_close(ours.embed(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("buffers", "shifts", "axes"),
    [  # of the authors' code, of the port of it that takes any size
        (("relative_position_index", "attn_mask"), "both", (False, False)),
        (("relative_position_index",), "always", (True, True)),
        ((), "either", (True, True)),
    ],
)
def test_windows_are_shifted_as_the_source_of_a_checkpoint_does(buffers, shifts, axes):
    small = {"width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)}
    ours = backbones.create("swin_tiny", **small)
    assert shifted_axes(7, 28, 7, ours.config.shifts) == (False, True)
    state = {}
    for name, tensor in ours.state_dict().items():
        for to, pattern in (
            (r"layers.\1.blocks.", r"^stages\.(\d)\."),
            (r"layers.\1.downsample.", r"^merges\.(\d)\."),
            ("patch_embed.proj.", r"^stem\.patches\."),
            ("patch_embed.norm.", r"^stem\.norm\."),
            (".attn.relative_position_bias_table", r"\.attention\.bias_table$"),
            (".attn.qkv.", r"\.attention\.qkv\."),
            (".attn.proj.", r"\.attention\.project\."),
            (".mlp.fc1.", r"\.mlp\.expand\."),
            (".mlp.fc2.", r"\.mlp\.project\."),
        ):
            name = re.sub(pattern, to, name)
        state[name] = tensor
    state |= {f"layers.0.blocks.1.{'attn.' * (name != 'attn_mask')}{name}": torch.zeros(1) for name in buffers}
    fitted = fit("swin_tiny", state, **small)
    assert fitted.report.source.partition("/")[0] == "official"
    assert len(fitted.report.left_out) == len(buffers)
    assert fitted.options == {"shifts": shifts}
    assert fitted.report.adapted == {"shifts": f"{shifts}, as official computes it"}
    named = {"both": "timm/0.8", "always": "official/multiscale", "either": "official/bare"}[shifts]
    assert fit("swin_tiny", state, named, **small).options == {"shifts": shifts}
    assert shifted_axes(7, 28, 7, shifts) == axes
    assert shifted_axes(7, 7, 7, shifts) == ((shifts == "always",) * 2)
    images = torch.randn(1, 3, 64, 224)
    mixed = backbones.create("swin_tiny", **small, **fitted.options)
    mixed.load_state_dict(fitted.state)
    assert {block.shifts for stage in mixed.stages for block in stage} == {shifts}
    with torch.no_grad():
        same = all(map(torch.equal, ours.eval()(images), mixed.eval()(images)))
    assert not same  # the third stage is 4 x 14 cells, which `per_axis` shifts sideways only


def test_our_own_checkpoints_describe_their_options(tmp_path):
    options = {"depth": 2, "eps": 1e-12}
    path = save(make("vit_tiny_16", **options), tmp_path / "best.safetensors", "vit_tiny_16", drop_path=0.2, **options)
    model = make("vit_tiny_16", weights=path)
    assert (len(model.blocks), model.blocks[0].norm1.eps, model.config.eps) == (2, 1e-12, 1e-12)
    assert model.config.drop_path == 0.0  # belongs to its training
    with pytest.raises(VertebraError, match="is of a model with depth=2, eps=1e-12: create the backbone with it"):
        make("vit_tiny_16", depth=1).load(path)
    with pytest.raises(VertebraError, match="was written by Vertebra, not by timm"):
        make("vit_tiny_16", weights=path, source="timm")


@pytest.mark.parametrize(
    ("name", "source", "options", "preset"),
    [
        ("resnet50", "detectron2", {}, {"stride_first": True}),
        ("resnet50", "mmdet/caffe", {}, {"stride_first": True}),
        ("resnet50", "detectron2", {"stride_first": False}, {}),
        ("resnet50", "detectron2/rgb", {}, {}),
        ("resnet50", "mmdet", {}, {}),
        ("resnet50", "torchvision", {}, {}),
        ("resnext50_32x4d", "detectron2", {}, {}),
        ("resnet18", "detectron2", {}, {}),
    ],
)
def test_the_stride_of_the_original_resnets(name, source, options, preset):
    state = {"stem.conv1.weight": torch.ones(64, 3, 7, 7), "stem.conv1.norm.weight": torch.ones(64)}
    state["stem.conv1.norm.running_mean"] = torch.zeros(64)
    if source != "detectron2" and source != "detectron2/rgb":
        state = {name.replace("stem.conv1.norm", "bn1").replace("stem.", ""): tensor for name, tensor in state.items()}
    fitted = fit(name, state, source, **options)
    assert fitted.options == preset
    remark = {"stem.0.conv.weight": "from BGR to RGB, normalised as usual"}
    remark = remark if source in ("detectron2", "mmdet/caffe") else {}
    origin = source.partition("/")[0]
    assert fitted.report.adapted == remark | ({"stride_first": f"True, as {origin} computes it"} if preset else {})
    assert "stem.0.norm.running_mean" in fitted.state


@pytest.mark.parametrize("source", ["detectron2", "mmdet/caffe"])
def test_resnets_with_group_norm_have_the_stride_in_the_second_convolution(source):
    """GroupNorm has no statistics."""
    norm = {"detectron2": "stem.conv1.norm", "mmdet/caffe": "gn1"}[source]
    conv = {"detectron2": "stem.conv1", "mmdet/caffe": "conv1"}[source]
    state = {
        f"{conv}.weight": torch.ones(64, 3, 7, 7),
        f"{norm}.weight": torch.ones(64),
        f"{norm}.bias": torch.ones(64),
    }
    fitted = fit("resnet50", state, source)
    assert fitted.options == {}
    assert "stem.0.norm.weight" in fitted.state


def test_where_the_stride_is():
    for first, strides in ((True, (2, 1)), (False, (1, 2))):
        model = make("resnet50", depths=(1, 1, 1, 1), stride_first=first)
        for stage in model.stages[1:]:
            convs = stage[0].conv1.conv, stage[0].conv2.conv
            assert tuple(conv.stride[0] for conv in convs) == strides
        assert [level.stride for level in model.levels] == [2, 4, 8, 16, 32]
        assert [64 // x.shape[2] for x in model(IMAGES)] == [2, 4, 8, 16, 32]


def test_the_last_stage_can_be_taken_off():
    model = make("resnet18", depths=(1, 1, 1, 1))
    with torch.no_grad():
        before = model(IMAGES)
        stage = model.pop_last_stage()
        after = model(IMAGES)
    assert [(level.stride, level.channels) for level in model.levels] == [(2, 64), (4, 64), (8, 128), (16, 256)]
    assert all(map(torch.equal, before, after))
    with torch.no_grad():
        assert torch.equal(stage(after[-1]), before[-1])
    assert make("vit_tiny_16", depth=1).pop_last_stage() is None


@pytest.mark.parametrize(
    ("head", "source", "table", "options"),
    [
        ("", None, "official", {}),
        ("decode_head.conv_seg.bias", None, "mmseg", {"upsample": "bilinear_twice"}),
        ("model.last_layer.0.bias", None, "official/segmentation", {"upsample": "bilinear"}),
        ("ocr_distri_head.x.bias", "official", "official/ocr", {"upsample": "bilinear", "align_corners": True}),
        ("decode_head.conv_seg.bias", "official", "official", {}),
        ("last_layer.0.bias", "mmdet", "mmdet", {}),
    ],
)
def test_the_head_decides_how_hrnet_exchanges(head, source, table, options):
    state = {f"backbone.{name}": tensor for name, tensor in _official_hrnet().items()}
    fitted = fit("hrnet_w18_small_v1", state | ({head: torch.zeros(1)} if head else {}), source)
    assert fitted.report.source == table
    assert fitted.options == options
    whole = {f"model.{name.removeprefix('backbone.')}": tensor for name, tensor in state.items()}
    assert fit("hrnet_w18_small_v1", whole).state.keys() == fit("hrnet_w18_small_v1", state).state.keys()
    with torch.device("meta"):
        model = backbones.create("hrnet_w18_small_v1", **fitted.options)
    exchange = model.stages[0][0].exchange
    assert exchange.upsample == options.get("upsample", "nearest")
    assert exchange.align_corners == options.get("align_corners", False)


@pytest.mark.parametrize(
    ("upsample", "expected"),
    [("bilinear", [0, 1.6, 4, 6.4, 8]), ("bilinear_twice", [0.1, 1.6, 4, 6.4, 7.9])],  # by way of 0, 1, 3, 5, 7, 8
)
def test_the_exchange_upsamples_to_sizes_that_are_no_multiple(upsample, expected):
    exchange = make("hrnet_w18_small_v1", upsample=upsample).stages[0][0].exchange
    upsampled = exchange.upsampled(torch.tensor([[[[0.0, 4, 8]]]]), 2, (1, 5))
    torch.testing.assert_close(upsampled, torch.tensor([[[expected]]]), rtol=0, atol=1e-6)


def test_the_norm_after_the_last_stage_of_a_backbone_of_transformers_is_unused():
    """Files of its version 5 have one."""
    state = make("swin_tiny", level_norms=True).state_dict() | {"swin.layernorm.weight": torch.zeros(768)}
    assert backbones.identify(state, "transformers/backbone", level_norms=True) == "swin_tiny"


def _official_hrnet():
    """The first layers' names are enough."""
    return {
        "conv1.weight": torch.ones(64, 3, 3, 3),
        "bn1.weight": torch.ones(64),
        "conv2.weight": torch.ones(64, 64, 3, 3),
    }


def test_asmlps_of_detectors_and_segmenters_are_read():
    weight = torch.randn(96, 3, 4, 4)
    fitted = fit("asmlp_tiny", {"backbone.patch_embed.proj.weight": weight, "decode_head.x": torch.zeros(1)})
    assert fitted.report.source in ("mmdet", "mmseg")
    assert torch.equal(fitted.state["patches.weight"], weight)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("paddle", {"apart": False, "count_include_pad": False}),
        ("mmdet", {"pooled": False}),
        ("mmseg", {"pooled": False}),
        ("timm", {}),
    ],
)
def test_the_first_blocks_of_res2net_are_those_of_the_source(source, options):
    state = {"conv1.weight": torch.ones(64, 3, 7, 7)}
    fitted = fit("res2net50_26w4s", state, source)
    assert fitted.options == options
    with torch.device("meta"):
        conv = backbones.create("res2net50_26w4s", **fitted.options).stages[0][0].conv2
    assert (conv.apart, conv.pooled) == (options.get("apart", True), options.get("pooled", True))
    assert conv.pool.count_include_pad == options.get("count_include_pad", True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "se_resnet50", "res2net50_26w4s"])
def test_blocks_start_as_the_identity(name):
    options = {"depths": (2, 1, 1, 1)}
    x = torch.rand(1, 64 if name == "resnet18" else 256, 8, 8)
    block = backbones.create(name, zero_init_residual=True, **options).stages[0][1]
    assert torch.equal(block(x), x)
    assert not torch.allclose(backbones.create(name, **options).stages[0][1](x), x)
