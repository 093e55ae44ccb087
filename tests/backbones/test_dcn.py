"""Deformable convolutions in residual networks: counts by hand, names elsewhere, and everything else as without."""

import copy

import pytest
import torch
from torch import nn

import vertebra
from vertebra import backbones
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.nn.conv import ConvNorm
from vertebra.nn.deform import DeformConv2d, deform
from vertebra.nn.fold import fold
from vertebra.nn.norm import replace_norm
from vertebra.weights import Report

LAST = {"dcn_stages": (False, False, True, True)}
SHALLOW = {"depths": (1, 1, 1, 1)}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEMBERS = [
    ("resnet50", {}),
    ("resnet50", {"dcn_modulated": True, "stride_first": True, "output_stride": 16}),
    ("resnext50_32x4d", {"dcn_modulated": True, "dcn_groups": 4}),
    ("res2net50_26w4s", {"dcn_groups": 2}),
]


def make(name, **options):
    """With offsets and norms that matter."""
    torch.manual_seed(0)
    model = backbones.create(name, **{**SHALLOW, **LAST, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
        if isinstance(module, DeformConv2d):
            nn.init.normal_(module.offset.weight, std=0.05)
    return model


def meta(name, **options):
    with torch.device("meta"):
        return backbones.create(name, **options)


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "extra"),
    [
        # Blocks x (offsets x 9 x channels + offsets) of the stages, with 2 x 9 offsets.
        (
            "resnet50",
            {"dcn_stages": (False, True, True, True)},
            4 * (18 * 9 * 128 + 18) + 6 * (18 * 9 * 256 + 18) + 3 * (18 * 9 * 512 + 18),
        ),
        (
            "resnet50",
            {"dcn_stages": (True, False, False, False), "dcn_modulated": True, "dcn_groups": 4},
            3 * (108 * 9 * 64 + 108),
        ),
        ("resnext50_32x4d", {"dcn_stages": (False, True, False, False)}, 4 * (18 * 9 * 256 + 18)),
        # Three groups of 208 channels in each of three blocks.
        (
            "res2net50_26w4s",
            {"dcn_stages": (False, False, False, True), "dcn_modulated": True},
            3 * 3 * (27 * 9 * 208 + 27),
        ),
    ],
)
def test_parameters(name, options, extra):
    assert size(meta(name, **options)) - size(meta(name)) == extra


def test_which_convolutions_are_deformable():
    model = meta("resnet50", **LAST)
    names = {name for name, module in model.named_modules() if isinstance(module, DeformConv2d)}
    assert names == {f"stages.{s}.{i}.conv2.conv" for s, blocks in ((2, 6), (3, 3)) for i in range(blocks)}
    strided = model.stages[2][0].conv2.conv
    assert strided.stride == strided.offset.stride == (2, 2)
    dilated = meta("resnet50", output_stride=16, **LAST).stages[3][1].conv2.conv
    assert dilated.dilation == dilated.offset.dilation == (2, 2)


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_it_starts_as_the_plain_convolution(modulated, factor):
    """Zero offsets, and modulated a factor of 0.5: arXiv:1811.11168, section 3.2."""
    torch.manual_seed(0)
    layer, x = nn.Sequential(ConvNorm(4, 6, 3, 2, groups=2)), torch.randn(2, 4, 7, 8)
    plain = layer[0].conv
    deform(layer, 2, modulated)
    torch.testing.assert_close(layer[0].conv(x), factor * plain(x), rtol=1e-4, atol=1e-5)
    assert layer[0].conv.weight is plain.weight


@pytest.mark.parametrize(("name", "options"), MEMBERS)
def test_every_form_of_a_network_computes_the_same(name, options):
    """Folded, in another layout, in half precision, and recomputed in the backward pass."""
    model = make(name, **options)
    again = copy.deepcopy(model)
    again.checkpointing = True
    for network in (model, again):
        sum(x.square().mean() for x in network(IMAGES)).backward()
    for (key, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert a.grad.abs().sum() > 0, key
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    model.eval()
    with torch.no_grad():
        expected = model(IMAGES)
        frozen = replace_norm(copy.deepcopy(model), "frozen")
        for network in (fold(copy.deepcopy(model)), fold(frozen)):
            for layout in (torch.contiguous_format, torch.channels_last):
                network.to(memory_format=layout)
                for a, b in zip(expected, network(IMAGES.contiguous(memory_format=layout)), strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            with torch.autocast("cpu", torch.bfloat16):
                for a, b in zip(expected, network(IMAGES), strict=True):
                    assert b.dtype == torch.bfloat16
                    assert (a - b).abs().max() < 0.05 * a.abs().max()
        assert model.pop_last_stage()(torch.zeros(0, 1024, 14, 14)).shape[:2] == (0, 2048)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), MEMBERS)
def test_exported(name, options):
    model = make(name, **options).eval()
    program = torch.export.export(model, (IMAGES,)).module()
    for a, b in zip(model(IMAGES), program(IMAGES), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet18", LAST, "dcn_stages is for bottleneck blocks; basic blocks have no deformable convolution"),
        ("resnet50", {"dcn_modulated": True}, "dcn_modulated and dcn_groups are for deformable .*: set dcn_stages too"),
        ("resnet50", {"dcn_groups": 2}, "set dcn_stages too"),
        ("resnet50", {**LAST, "dcn_groups": 0}, "dcn_groups is 0"),
        ("resnet50", {**LAST, "dcn_groups": 3}, "dcn_groups is 3; it must divide the 256 channels"),
        ("resnet50", {"dcn_stages": (True,)}, "dcn_stages is .*; it must be 4 booleans"),
        ("hrnet_w18", LAST, "hrnet_w18 has no option 'dcn_stages'"),
    ],
)
def test_options_that_make_no_network_are_refused(name, options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        meta(name, **options)


def foreign(library, stages, offsets):
    """Tensors of a ResNet-50 in which one convolution of each of these stages is deformable."""
    names = {
        "mmdet": ("conv1", "layer{}.0.conv2.conv_offset", 1),
        "mmdet 1": ("conv1", "layer{}.0.conv2_offset", 1),
        "detectron2": ("stem.conv1", "res{}.0.conv2_offset", 2),
    }
    stem, offset, first = names[library]
    state = {f"{stem}.weight": torch.zeros(64, 3, 7, 7)}
    return state | {f"{offset.format(i + first)}.weight": torch.zeros(offsets, 64, 3, 3) for i in stages}


@pytest.mark.parametrize("library", ["mmdet", "mmdet 1", "detectron2"])
@pytest.mark.parametrize(
    ("stages", "offsets", "options"),
    [
        ((1, 2, 3), 18, {"dcn_stages": (False, True, True, True), "dcn_modulated": False, "dcn_groups": 1}),
        ((3,), 108, {"dcn_stages": (False, False, False, True), "dcn_modulated": True, "dcn_groups": 4}),
        ((0,), 36, {"dcn_stages": (True, False, False, False), "dcn_modulated": False, "dcn_groups": 2}),
        ((), 0, {}),
    ],
)
def test_options_are_read_off_the_tensors(library, stages, offsets, options):
    fitted = backbones.fit_state("resnet50", foreign(library, stages, offsets), source=None, path="file")
    assert fitted.options == options | ({"stride_first": True} if library == "detectron2" else {})
    assert all(f"stages.{i}.0.conv2.conv.offset.weight" in fitted.state for i in stages)


def test_a_plain_checkpoint_starts_a_deformable_network():
    """Its offsets are new; a file with some of them and not all is damaged."""
    plain = backbones.create("resnet50", **SHALLOW)
    state = plain.state_dict()
    model = backbones.create("resnet50", **SHALLOW, dcn_stages=(True,) * 4)
    report = model.fill(dict(state), Report("file", "vertebra"))
    assert report.new == [f"stages.{i}.0.conv2.conv.offset.{kind}" for i in range(4) for kind in ("weight", "bias")]
    with torch.no_grad():
        for a, b in zip(plain.eval()(IMAGES), model.eval()(IMAGES), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    half = state | {"stages.0.0.conv2.conv.offset.bias": torch.zeros(18)}
    with pytest.raises(VertebraError, match=r"stages\.0\.0\.conv2\.conv\.offset\.weight: missing from the checkpoint"):
        model.fill(half, Report("file", "vertebra"))


def test_a_classifiers_checkpoint_starts_a_deformable_detector(tmp_path):
    options = {"backbone": "resnet50", "classes": 2}
    classifier = vertebra.create("classification", backbone_options=SHALLOW, **options)
    checkpoint.save(classifier, tmp_path / "best.safetensors")
    inner = SHALLOW | {"dcn_stages": (True,) * 4}
    model = vertebra.create("detection", backbone_options=inner, weights=tmp_path / "best.safetensors", **options)
    expected = classifier.backbone.stages[3][0].conv2.conv.weight
    assert torch.equal(model.backbone.stages[3][0].conv2.conv.weight, expected)
    assert {name for name in model.report.new if name.startswith("backbone.")} == {
        f"backbone.stages.{i}.0.conv2.conv.offset.{kind}" for i in range(4) for kind in ("weight", "bias")
    }
