"""One contract, swept over every name."""

import copy
import functools
import re

import pytest
import torch
from torch import nn

from vertebra import backbones, ledger
from vertebra.backbones import facts
from vertebra.backbones.facts import CLASSES
from vertebra.errors import VertebraError
from vertebra.nn.conv import ConvNorm
from vertebra.nn.drop import DropPath
from vertebra.nn.fold import FoldedConv, FoldedLinear, fold
from vertebra.structures import Preprocess

NAMES = backbones.names()
SMALL = {  # at least one of every family, and every kind of block, made small
    "resnet18": {"depths": (2, 1, 1, 1)},
    "resnet50_d": {"depths": (1, 2, 1, 1)},
    "se_resnext50_32x4d": {"depths": (1, 1, 2, 1)},
    "efficientnetv2_b0": {"depths": (1, 2, 1, 2, 1, 1)},
    "tf_efficientnetv2_b0": {"depths": (2, 1, 1, 1, 2, 1)},
    "efficientnetv2_rw_t": {"depths": (2, 1, 2, 1, 1, 2)},
    "res2net50_48w2s": {"depths": (1, 2, 1, 1)},
    "res2next50": {"depths": (2, 1, 1, 1)},
    "se_res2net50": {"depths": (1, 2, 1, 1)},
    "res2net50_v1b": {"depths": (1, 1, 1, 2)},
    "dla34": {"depths": (1, 1, 1, 2, 1, 1)},
    "dla102": {"depths": (1, 1, 1, 2, 1, 1), "widths": (8, 8, 16, 16, 32, 32)},
    "res2net_dla60": {"depths": (1, 1, 1, 2, 1, 1), "widths": (8, 8, 16, 32, 64, 64)},
    "blresnet50": {"depths": (3, 2, 2, 1)},
    "blres2net50": {"depths": (2, 2, 2, 1)},
    "vit_tiny_16": {"depth": 3},
    "vit_base_32": {"depth": 2, "width": 32, "heads": 4},
    "deit_tiny_16_distilled": {"depth": 2},
    "swin_tiny": {"width": 24, "depths": (2, 2, 2, 2), "level_norms": True},
    "hrnet_w18_small_v1": {"blocks": 1},
    "hrnet_w18_small_v2": {"view": "v2", "first": (2, 64), "modules": (1, 2, 1), "blocks": 1},
    "cyclemlp_b1": {"depths": (1, 1, 1, 2), "level_norms": True},
    "asmlp_mobile": {"width": 20, "depths": (1, 2, 1, 1), "level_norms": True},
    "mixer_s32": {"width": 64, "depth": 3},
    "resmlp_12": {"width": 64, "depth": 3},
    "gmlp_ti16": {"width": 32, "depth": 3},
    "vip_small_7": {"patch": 8, "widths": (32, 48, 48, 48), "depths": (1, 2, 1, 1)},
    "vip_medium_7": {"patch": 8, "widths": (32, 32, 64, 64), "depths": (1, 1, 1, 1)},
    "s2mlp_deep": {"width": 32, "depth": 3},
}
REPEATED = ("res2net50_48w2s", "se_res2net50", "res2net50_v1b", "dla34", "blres2net50", "vit_base_32", "vip_medium_7")
TRACED = [name for name in SMALL if name not in REPEATED]  # whose blocks and stems are no others'
FIXED = ("mixer", "resmlp", "gmlp", "vip")  # families that take one input size

counts = functools.cache(facts.facts)


def small(name, **overrides):
    """Backbone `name` for images of 64 x 64."""
    return backbones.create(name, **{"image_size": (64, 64), **SMALL[name], **overrides})


@functools.cache
def plain(name):
    """Backbone `name` on the meta device, made shallow."""
    with torch.device("meta"):
        return backbones.create(name, **shallow(name))


def shallow(name):
    """Options with which backbone `name` has two blocks of each kind at most; DLA's trees stay as they are."""
    module = backbones.family(name)
    config, family = module.VARIANTS[name], module.__name__.rpartition(".")[2]
    if family == "hrnet":
        return {"blocks": 1}
    if hasattr(config, "depth"):
        return {"depth": 2}
    if family == "dla":
        return {}
    return {"depths": tuple(min(depth, 3 if family == "biglittle" else 2) for depth in config.depths)}


# Counts published or agreed by two implementations, with a classifier of 1000 classes.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnet50_c": 25_576_264,
    "resnet101_c": 44_568_392,
    "resnet50_d": 25_576_264,
    "resnet101_d": 44_568_392,
    "resnet152_d": 60_212_040,
    "resnet200_d": 64_693_064,
    "resnet200_vd": 74_738_504,
    "se_resnet50": 28_088_024,
    "se_resnet101": 49_326_872,
    "se_resnet152": 66_821_848,
    "se_resnext50_32x4d": 27_559_896,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x4d": 44_177_704,
    "resnext101_64x4d": 83_455_272,
    "resnext101_32x8d": 88_791_336,
    "resnext101_32x16d": 194_026_792,
    "resnext101_32x32d": 468_530_472,
    "resnext101_32x48d": 828_411_176,
    "efficientnetv2_rw_t": 13_649_388,
    "efficientnetv2_rw_s": 23_941_296,
    "efficientnetv2_rw_m": 53_236_442,
}
for prefix in ("", "tf_"):
    PARAMETERS |= {
        f"{prefix}efficientnetv2_b0": 7_139_704,
        f"{prefix}efficientnetv2_b1": 8_141_052,
        f"{prefix}efficientnetv2_b2": 10_096_086,
        f"{prefix}efficientnetv2_b3": 14_358_406,
        f"{prefix}efficientnetv2_s": 21_458_488,
        f"{prefix}efficientnetv2_m": 54_139_356,
        f"{prefix}efficientnetv2_l": 118_515_272,
        f"{prefix}efficientnetv2_xl": 208_119_808,
    }
PARAMETERS |= {
    "asmlp_mobile": 9_597_480,
    "asmlp_tiny": 28_282_696,
    "asmlp_small": 49_594_696,
    "asmlp_base": 87_752_808,
    "blresnet50": 26_694_568,
    "blresnet101": 41_851_560,
    "blres2net50": 26_845_561,
    "cyclemlp_b1": 15_155_400,
    "cyclemlp_b2": 26_802_504,
    "cyclemlp_b3": 38_385_720,
    "cyclemlp_b4": 51_796_552,
    "cyclemlp_b5": 75_747_280,
    "dla34": 15_742_104,
    "dla60": 22_036_632,
    "dla102": 33_268_888,
    "res2net_dla60": 20_848_072,
    "res2next_dla60": 17_032_984,
    "gmlp_ti16": 5_867_328,
    "gmlp_s16": 19_422_656,
    "gmlp_b16": 73_075_392,
    "hrnet_w18_small_v1": 13_187_464,
    "hrnet_w18_small_v2": 15_597_464,
    "hrnet_w18": 21_299_004,
    "hrnet_w30": 37_712_220,
    "hrnet_w32": 41_232_680,
    "hrnet_w40": 57_557_160,
    "hrnet_w44": 67_064_984,
    "hrnet_w48": 77_469_864,
    "hrnet_w64": 128_059_944,
    "mixer_s32": 19_104_624,
    "mixer_s16": 18_528_264,
    "mixer_b32": 60_293_428,
    "mixer_b16": 59_880_472,
    "mixer_l32": 206_939_264,
    "mixer_l16": 208_196_168,
    "mixer_h14": 432_350_952,
    "res2net50_14w8s": 25_059_816,
    "res2net50_26w4s": 25_699_120,
    "res2net50_26w6s": 37_051_448,
    "res2net50_26w8s": 48_403_776,
    "res2net50_48w2s": 25_287_304,
    "res2net101_26w4s": 45_206_688,
    "res2net50_v1b": 25_718_352,
    "res2net101_v1b": 45_225_920,
    "res2net200_vd": 76_215_536,
    "res2next50": 24_671_464,
    "se_res2net50": 28_230_112,
    "resmlp_12": 15_350_872,
    "resmlp_24": 30_020_680,
    "resmlp_36": 44_690_488,
    "resmlp_big_24": 129_138_280,
    "resmlp_big_24_16": 115_736_776,
    "s2mlp_wide": 72_241_384,
    "s2mlp_deep": 53_917_288,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swin_large": 196_532_476,
    "swin_base_384": 87_903_584,
    "swin_large_384": 196_735_516,
    "vip_small_14": 29_892_904,
    "vip_small_7": 25_114_984,
    "vip_medium_7": 55_272_488,
    "vip_large_7": 87_784_936,
    "vit_tiny_16": 5_717_416,
    "vit_small_16": 22_050_664,
    "vit_small_32": 22_878_952,
    "vit_base_16": 86_567_656,
    "vit_base_32": 88_224_232,
    "vit_large_16": 304_326_632,
    "vit_large_32": 306_535_400,
    "vit_huge_14": 632_045_800,
    "vit_tiny_16_384": 5_790_376,
    "vit_small_16_384": 22_196_584,
    "vit_small_32_384": 22_915_432,
    "vit_base_16_384": 86_859_496,
    "vit_base_32_384": 88_297_192,
    "vit_large_16_384": 304_715_752,
    "vit_large_32_384": 306_632_680,
    "deit_tiny_16": 5_717_416,
    "deit_small_16": 22_050_664,
    "deit_base_16": 86_567_656,
    "deit_tiny_16_distilled": 5_910_800,
    "deit_small_16_distilled": 22_436_432,
    "deit_base_16_distilled": 87_338_192,
    "deit_base_16_384": 86_859_496,
    "deit_base_16_distilled_384": 87_630_032,
}


MULTIPLY_ADDS = {  # in 1e9; of the first four as published
    "resnet50": 4.089,
    "resnet50_d": 4.329,
    "resnext101_32x8d": 16.414,
    "resnext101_32x48d": 153.31,
    "res2net50_26w4s": 4.255,
    "res2net200_vd": 15.706,
    "dla60": 4.236,
    "res2next_dla60": 3.459,
    "blresnet50": 2.856,
    "vit_base_16": 17.564,
    "vit_large_16_384": 191.066,
    "deit_base_16_distilled_384": 55.591,
    "swin_tiny": 4.491,
    "swin_large_384": 103.919,
    "hrnet_w18_small_v2": 2.596,
    "hrnet_w64": 28.895,
    "cyclemlp_b1": 2.122,
    "cyclemlp_b5": 12.232,
    "asmlp_base": 15.126,
    "mixer_l16": 44.548,
}
COUNTED = sorted({*SMALL, *MULTIPLY_ADDS})
"""Whose multiply-adds are compared with the ledger's."""


def lively(model: nn.Module) -> nn.Module:
    """Norms with statistics and scales that matter: fresh ones are zero and one."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.5, 1)
            module.bias.data.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in ledger.entries()}


@pytest.fixture(scope="module", params=NAMES)
def full(request):
    """Every backbone by its name, made shallow, on the meta device, with embedding layers and for an odd input."""
    size = (112, 112) if request.param.startswith("vip") else (97, 160)  # ViP takes square grids only
    with torch.device("meta"):
        options = {"channels": 5, "embedding": True, "image_size": size, **shallow(request.param)}
        return request.param, backbones.create(request.param, **options).eval()


@pytest.fixture
def unnormed(monkeypatch):
    """Batch norm, which is slow on the meta device, checks its channels alone."""

    def forward(self, x):
        assert x.shape[1] == self.num_features
        return x

    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("no_initialisation")
def test_counts_on_meta(name, entries):
    with torch.device("meta"):
        model = backbones.create(name, embedding=True)
    head = CLASSES * (model.width + model.num_classifiers)
    written = entries[name]
    assert written.parameters == PARAMETERS[name] == head + sum(p.numel() for p in model.parameters())
    assert written.levels == [[level.stride, level.channels] for level in model.levels]


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.usefixtures("no_initialisation")
def test_multiply_adds_on_meta(name, entries):
    counted, written = counts(name), entries[name]
    assert (written.parameters, written.macs) == (counted.parameters, counted.macs)
    assert name not in MULTIPLY_ADDS or counted.macs / 1e9 == pytest.approx(MULTIPLY_ADDS[name], abs=0.001)


def test_features_as_declared(full, unnormed):
    _, model = full
    height, width = model.config.image_size
    features = []
    with torch.no_grad(), torch.device("meta"):
        vector = model.pool(model.forward_features(torch.empty(2, 5, height, width), features.append))
    assert len(features) == len(model.levels)
    assert [level.stride for level in model.levels] == sorted(level.stride for level in model.levels)
    for level, feature in zip(model.levels, features, strict=True):
        expected = [2, level.channels, -(-height // level.stride), -(-width // level.stride)]
        assert list(feature.shape) == expected
    assert list(vector.shape) == [2, model.width]


def test_layers_hold_every_parameter_once(full):
    _, model = full
    held = [id(p) for layer in model.layers() for p in layer.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}
    assert model.first_conv in model.state_dict()


def test_the_stages_hold_the_layers_in_their_order(full):
    _, model = full
    stages = model.stage_layers()
    assert len(stages) in (2, 4, 6, 7)  # a network without stages has at most as many as blocks
    assert all(stages)
    of_layers, of_stages = model.layers(), [layer for stage in stages for layer in stage]
    assert [list(a.parameters()) == list(b.parameters()) for a, b in zip(of_layers, of_stages, strict=True)]


def test_the_stem_is_in_the_first_stage_and_what_follows_the_last_one_in_that():
    counts = {"resnet18": [3, 2, 2, 2], "swin_tiny": [3, 3, 7, 4], "vit_tiny_16": [4, 3, 3, 4]}
    counts["hrnet_w18"] = [5, 2, 5, 7]  # the stem and four blocks; of the others, a transition and the modules
    for name, expected in counts.items():
        with torch.device("meta"):
            stages = backbones.create(name, embedding=True).stage_layers()
        assert [len(stage) for stage in stages] == expected


def test_learning_rates_fall_layer_by_layer(full):
    from vertebra import tasks
    from vertebra.engine.optim import parameter_groups

    name, model = full
    method = tasks.find("classification")
    with torch.device("meta"):
        task = method.MODEL(method.Config(backbone=name), ("a", "b", "c"), Preprocess(), model)
    groups = parameter_groups(task, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(task.parameters()))
    layers = model.layers()
    for i, layer in enumerate(layers):
        assert {rates[id(p)] for p in layer.parameters()} <= {0.5 ** (len(layers) - i)}
    assert {rates[id(p)] for p in task.head.parameters()} == {1.0}


def test_a_detector_has_no_embedding_layer(full):
    name, model = full
    extra = model.state_dict().keys() - plain(name).state_dict().keys()
    assert all(key.startswith(model.embedding_only) for key in extra)
    assert bool(extra) == bool(model.embedding_only)


def test_multiply_adds_at_another_size():
    assert counts("efficientnetv2_s", 384).macs / 1e9 == pytest.approx(8.366, abs=0.001)
    assert counts("efficientnetv2_l", 480).macs / 1e9 == pytest.approx(56.080, abs=0.001)


@pytest.mark.parametrize("size", [(320, 256), (333, 251), (64, 64)])
@pytest.mark.parametrize("name", SMALL)
def test_any_size(name, size, unnormed):
    with torch.device("meta"), torch.no_grad():
        model = plain(name)  # for 224 x 224
        images = torch.empty(1, 3, *size)
        fixed = backbones.family(name).__name__.rpartition(".")[2] in FIXED
        assert model.any_size != fixed
        if fixed:
            with pytest.raises(VertebraError, match="works only at the input size") as caught:
                model(images)
            if name.startswith("vip") and str(caught.value).endswith("resize them."):
                return  # its own size is the nearest that its channels can be mixed at
            offered = tuple(map(int, re.findall(r"image_size=\((\d+), (\d+)\)", str(caught.value))[0]))
            if not name.startswith("vip"):  # whose channels are mixed over square grids that divide them
                assert offered == size
            backbones.create(name, image_size=offered)(torch.empty(1, 3, *offered))
            return
        for level, feature in zip(model.levels, model(images), strict=True):
            assert list(feature.shape[2:]) == [-(-side // level.stride) for side in size]


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing_but_speed(name):
    model = lively(small(name, embedding=True)).eval()
    images = torch.randn(2, 3, 63, 64)
    folded = fold(copy.deepcopy(model))
    for plain, form in ((ConvNorm, FoldedConv), (nn.Linear, FoldedLinear)):
        expected = sum(isinstance(module, plain) for module in model.modules())
        assert sum(isinstance(module, form) for module in folded.modules()) == expected
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        before, vector = model(images), model.embed(images)
        for layout in (torch.contiguous_format, torch.channels_last):
            after = folded.to(memory_format=layout)(images.contiguous(memory_format=layout))
            for a, b in zip(before, after, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vector, folded.embed(images), rtol=1e-4, atol=1e-4)
    plain = folded(images)  # with gradients on, the plain operators are used
    torch.testing.assert_close(before[-1], plain[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_is_used_and_checkpointing_gives_the_same_gradients_and_statistics(name):
    first = lively(small(name)).train()
    second = copy.deepcopy(first)
    second.checkpointing = True
    images = torch.randn(2, 3, 64, 64)
    for model in (first, second):
        sum(feature.square().mean() for feature in model(images)).backward()
    for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert a.grad is not None, key
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for (key, a), b in zip(first.named_buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_rises_linearly_and_rests_in_eval(name):
    model = small(name, drop_path=0.3)
    drops = [[m.rate for m in layer.modules() if isinstance(m, DropPath)] for layer in model.layers()]
    rates = [max(layer) for layer in drops if layer]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    lively(model)
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        a, b = model.eval()(images)[-1], model(images)[-1]
        assert torch.equal(a, b)
        c, d = model.train()(images)[-1], model(images)[-1]
        assert not torch.equal(c, d)


OF_FAMILIES = {backbones.family(name): name for name in reversed(TRACED)}.values()


class Outputs(nn.Module):
    """Those of `forward` and of `embed`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        levels = []
        vector = self.model.pool(self.model.forward_features(images, levels.append))
        return *levels, vector


@pytest.mark.parametrize("name", OF_FAMILIES)
@pytest.mark.slow
def test_exports_without_a_graph_break(name):
    """A strict export is traced by the compiler, which allows no break, and then by the exporter."""
    torch.compiler.reset()
    model = lively(small(name, embedding=True)).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(Outputs(model), (images,), strict=True)
    with torch.no_grad():
        *levels, vector = exported.module()(images)
        torch.testing.assert_close(vector, model.embed(images), rtol=1e-4, atol=1e-4)
        for a, b in zip(model(images), levels, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_names_and_aliases():
    assert backbones.public_name("seresnet50") == "se_resnet50"
    assert backbones.public_name("efficientnet_v2_s") == "efficientnetv2_s"
    assert len(NAMES) == len(set(NAMES))
    for module in backbones.families().values():
        assert set(module.ALIASES.values()) <= set(module.VARIANTS)
        assert not set(module.ALIASES) & set(NAMES)
        assert {key.partition(".")[0] for key in module.WEIGHTS} <= set(module.VARIANTS)


def test_unknown_names_and_options_are_explained():
    with pytest.raises(VertebraError, match=r"'resnet51'.*Did you mean 'resnet50'"):
        backbones.create("resnet51")
    with pytest.raises(VertebraError, match=r"no option 'drop_pth'.*Did you mean 'drop_path'"):
        backbones.create("resnet18", drop_pth=0.1)
    with pytest.raises(VertebraError, match="embedding=True"):
        backbones.create("efficientnetv2_b0").embed(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_16", {"depth": 1, "width": 24}),
        ("swin_tiny", {"depths": (2, 1, 1, 1), "heads": (1,) * 4, "width": 12, "window": 2}),
    ],
)
def test_exported_programs_take_any_size(name, options):
    """Of a position table and of shifted windows, at other sizes and at that of the table."""
    torch.manual_seed(0)
    model = backbones.create(name, **options).eval()
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 96, 160),), dynamic_shapes=[dynamic]).module()
        for size in ((128, 96), (224, 224)):
            images = torch.randn(1, 3, *size)
            for one, other in zip(program(images), model(images), strict=True):
                torch.testing.assert_close(one, other)
