"""One contract, swept over every name."""

import copy

import pytest
import torch
from torch import nn

from vertebra import backbones, ledger
from vertebra.backbones.facts import facts
from vertebra.errors import VertebraError
from vertebra.nn.conv import FoldedConv, fold
from vertebra.nn.drop import DropPath

NAMES = backbones.names()
SMALL = [
    "resnet18",
    "resnet50_d",
    "se_resnext50_32x4d",
    "efficientnetv2_b0",
    "tf_efficientnetv2_b0",
    "efficientnetv2_rw_t",
]
# Counts published or agreed by two implementations, with a classifier of 1000 classes.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
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


@pytest.mark.parametrize("name", NAMES)
def test_counts_on_meta(name):
    counted = facts(name)
    assert counted.parameters == PARAMETERS[name]
    written = next(entry for entry in ledger.entries() if entry.name == name)
    assert (written.parameters, written.macs) == (counted.parameters, counted.macs)
    assert written.levels == [[level.stride, level.channels] for level in counted.levels]


def test_published_multiply_adds():
    published = {"resnet50": 4.089, "resnet50_d": 4.329, "resnext101_32x8d": 16.414, "resnext101_32x48d": 153.31}
    for name, gmacs in published.items():
        assert facts(name).macs / 1e9 == pytest.approx(gmacs, abs=0.001)
    assert facts("efficientnetv2_s", 384).macs / 1e9 == pytest.approx(8.366, abs=0.001)
    assert facts("efficientnetv2_l", 480).macs / 1e9 == pytest.approx(56.080, abs=0.001)


@pytest.mark.parametrize("name", NAMES)
def test_features_as_declared(name):
    with torch.device("meta"):
        model = backbones.create(name, channels=5, embedding=True)
        maps, vector = model(torch.empty(2, 5, 97, 160)), model.embed(torch.empty(2, 5, 97, 160))
    assert len(maps) == len(model.levels)
    assert [level.stride for level in model.levels] == sorted(level.stride for level in model.levels)
    for level, feature in zip(model.levels, maps, strict=True):
        assert list(feature.shape) == [2, level.channels, -(-97 // level.stride), -(-160 // level.stride)]
    assert list(vector.shape) == [2, model.width]


@pytest.mark.parametrize("name", NAMES)
def test_layers_hold_every_parameter_once(name):
    with torch.device("meta"):
        model = backbones.create(name, embedding=True)
    held = [id(p) for layer in model.layers() for p in layer.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}
    assert model.first in model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_carries_no_embedding_layer(name):
    with torch.device("meta"):
        bare, full = backbones.create(name), backbones.create(name, embedding=True)
    extra = {key for key in full.state_dict() if key not in bare.state_dict()}
    assert all(key.startswith(full.embedding_only) for key in extra)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_is_used(name):
    with torch.device("meta"):
        model = backbones.create(name)
        sum(feature.mean() for feature in model(torch.empty(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing_but_speed(name):
    model = lively(backbones.create(name, embedding=True)).eval()
    images = torch.randn(2, 3, 65, 64)
    folded = fold(copy.deepcopy(model))
    assert any(isinstance(module, FoldedConv) for module in folded.modules())
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
def test_checkpointing_gives_the_same_gradients_and_statistics(name):
    first = lively(backbones.create(name)).train()
    second = copy.deepcopy(first)
    second.checkpointing = True
    images = torch.randn(2, 3, 64, 64)
    for model in (first, second):
        sum(feature.square().mean() for feature in model(images)).backward()
    for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for (key, a), b in zip(first.named_buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_rises_linearly_and_rests_in_eval(name):
    model = backbones.create(name, drop_path=0.3)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    lively(model)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        a, b = model.eval()(images)[-1], model(images)[-1]
        assert torch.equal(a, b)
        c, d = model.train()(images)[-1], model(images)[-1]
        assert not torch.equal(c, d)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_exports_without_a_graph_break(name):
    model = lively(backbones.create(name)).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(model, (images,))
    for a, b in zip(model(images), exported.module()(images), strict=True):
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
