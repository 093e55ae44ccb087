"""What only some families have: views, tokens, tables of positions, and how other people's checkpoints set them."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import SwinTransformer

from vertebra import backbones, tasks, weights
from vertebra.backbones.swin import shifted_axes
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make(name, **options):
    torch.manual_seed(0)
    return backbones.create(name, image_size=(64, 64), **options).eval()


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


def test_what_vit_returns():
    token, mean = (make("vit_tiny_16", depth=1, embedding=True, pool=pool) for pool in ("token", "mean"))
    mean.load_state_dict(token.state_dict())
    with torch.no_grad():
        x, _ = token.stem(IMAGES)
        x = token.blocks[0](x)  # [2, 1 + 16, C]
        torch.testing.assert_close(token.embed(IMAGES), token.norm(x[:, 0]))
        torch.testing.assert_close(mean.embed(IMAGES), token.norm(x[:, 1:].mean(1)))
        torch.testing.assert_close(token(IMAGES)[0], x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))


def test_a_distilled_model_averages_two_classifiers():
    task = tasks.create(
        "classification", backbone="deit_tiny_16_distilled", classes=5, preprocess=Preprocess((64, 64))
    ).eval()
    with torch.no_grad():
        each = task.head.each(task.backbone.embed(IMAGES))
        assert each.shape == (2, 2, 5)
        torch.testing.assert_close(task(IMAGES), each.mean(1))
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
    save_file(large.state_dict(), tmp_path / "large.safetensors", metadata={"vertebra": "{}"})
    small = make(name, **options)
    report = small.load(tmp_path / "large.safetensors")
    assert list(report.adapted) == [changed]
    assert "grid of" in report.adapted[changed]
    with torch.no_grad():  # and the model itself resamples in the same way
        torch.testing.assert_close(small(IMAGES)[-1], large.eval()(IMAGES)[-1], rtol=1e-4, atol=1e-5)


def test_window_biases_are_resampled_on_loading(tmp_path):
    options = {"depths": (1, 1, 1, 1)}
    save_file(make("swin_tiny", **options).state_dict(), tmp_path / "m.safetensors", metadata={"vertebra": "{}"})
    report = make("swin_tiny", window=4, **options).load(tmp_path / "m.safetensors")
    assert len(report.adapted) == 4
    assert set(report.adapted.values()) == {"biases of windows of 7 -> 4 cells"}


def test_the_source_decides_what_its_models_compute_otherwise(tmp_path):
    """transformers' ViT has another eps in its norms; the model takes it over, and so does its own checkpoint."""
    task = tasks.create("classification", backbone="vit_tiny_16", classes=3, preprocess=Preprocess((64, 64)))
    assert task.backbone.blocks[0].norm1.eps == 1e-6
    report = task.backbone.load(_transformers(task.backbone, tmp_path / "hf.safetensors"))
    assert report.source == "transformers"
    assert "eps" in report.adapted
    assert task.backbone.blocks[0].norm1.eps == task.backbone.norm.eps == task.backbone.config.eps == 1e-12
    task.load(tmp_path / "hf.safetensors", source="transformers", partial=True)
    checkpoint.save(task, tmp_path / "best.safetensors")
    again, _ = checkpoint.load(tmp_path / "best.safetensors", device="cpu")
    assert again.backbone.blocks[3].norm2.eps == 1e-12


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
    ours = backbones.create("swin_tiny", width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), embedding=True).eval()
    state, _, source = ours.convert(theirs.state_dict(), None)
    assert source == "torchvision"
    ours.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("head.")})
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
    own, left_out, source = ours.convert(state, None)
    assert source.partition("/")[0] == "official"
    assert len(left_out) == len(buffers)
    ours.load_state_dict(own)
    ours.settle(weights.Report("file", source))
    assert ours.config.shifts == shifts
    assert shifted_axes(7, 28, 7, shifts) == axes
    assert shifted_axes(7, 7, 7, shifts) == ((shifts == "always",) * 2)
    images = torch.randn(1, 3, 64, 224)
    mixed = backbones.create("swin_tiny", **small, shifts=shifts)
    mixed.load_state_dict(own)
    with torch.no_grad():
        assert all(map(torch.equal, ours.eval()(images), mixed.eval()(images)))


def test_our_own_checkpoints_say_what_is_computed_otherwise(tmp_path):
    options = {"depth": 2, "eps": 1e-12}
    task = tasks.create("classification", backbone="vit_tiny_16", classes=3, backbone_options=options)
    checkpoint.save(task, tmp_path / "best.safetensors")
    bare = backbones.create("vit_tiny_16", depth=2, embedding=True, weights=tmp_path / "best.safetensors")
    assert bare.blocks[0].norm1.eps == bare.config.eps == 1e-12


def test_the_segmenters_hrnet_exchanges_as_it_did():
    model = backbones.create("hrnet_w18_small_v1")
    state = {f"backbone.{name}": tensor for name, tensor in _official_hrnet(model).items()}
    assert model.convert(state, None)[2] == "official"
    assert model.convert(state | {"decode_head.conv_seg.bias": torch.zeros(1)}, None)[2] == "mmseg"
    whole = {f"model.{name.removeprefix('backbone.')}": tensor for name, tensor in state.items()}
    assert set(model.convert(whole, None)[0]) == set(model.convert(state, None)[0])


def _official_hrnet(model):
    """The first layers' names are enough."""
    own = model.state_dict()
    return {
        "conv1.weight": own["stem.0.conv.weight"],
        "bn1.weight": own["stem.0.norm.weight"],
        "conv2.weight": own["stem.1.conv.weight"],
    }


def test_asmlps_of_detectors_and_segmenters_are_read():
    model = backbones.create("asmlp_tiny")
    own = model.state_dict()
    state = {"backbone.patch_embed.proj.weight": own["patches.weight"], "decode_head.x": torch.zeros(1)}
    converted, _, source = model.convert(state, None)
    assert source in ("mmdet", "mmseg")
    assert torch.equal(converted["patches.weight"], own["patches.weight"])
