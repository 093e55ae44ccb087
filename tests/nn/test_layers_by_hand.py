"""Small layers, with numbers worked by hand."""

import copy

import pytest
import torch
from torch import nn

from vertebra.nn import conv as convolution
from vertebra.nn.conv import ConvNorm
from vertebra.nn.fold import fold
from vertebra.nn.merge import Merge
from vertebra.nn.mlp import LinearGelu, Mlp
from vertebra.nn.norm import replace_norm
from vertebra.nn.patch import PatchEmbed, resize_grid
from vertebra.nn.res2 import Res2Conv
from vertebra.nn.shift import Shift


def test_shift_reads_at_offsets():
    x = torch.arange(12.0).view(1, 3, 1, 4)  # three channels of one row
    across = Shift([0, 0, 0], [0, 1, -1])(x)
    assert across[0, :, 0].tolist() == [[0, 1, 2, 3], [5, 6, 7, 0], [0, 8, 9, 10]]
    down = Shift([0, 1, -1], [0, 0, 0])(x.transpose(2, 3))
    assert torch.equal(down, across.transpose(2, 3))


def test_shift_may_keep_the_edge():
    x = torch.arange(8.0).view(1, 2, 1, 4)
    assert Shift([0, 0], [-1, 1], edge=True)(x)[0, :, 0].tolist() == [[0, 0, 1, 2], [5, 6, 7, 7]]


def test_cycle_fc_is_a_deformable_convolution():
    """CycleFC is defined by deform_conv2d with whole offsets: arXiv:2107.10224, equation 2."""
    from torchvision.ops import deform_conv2d

    from vertebra.backbones.cyclemlp import CycleFC

    torch.manual_seed(0)
    for down in (False, True):
        layer, x = CycleFC(8, down=down), torch.randn(2, 8, 5, 6)
        offset = torch.zeros(2, 16, 5, 6)
        for i in range(8):
            offset[:, 2 * i + (0 if down else 1)] = (i + 1) % 3 - 1
        expected = deform_conv2d(x, offset, layer.linear.weight[..., None, None], layer.linear.bias)
        torch.testing.assert_close(layer(x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_as_mlp_moves_groups_of_channels():
    from vertebra.backbones.asmlp import AxialShift

    x = torch.zeros(1, 6, 1, 7)
    x[..., 3] = 1  # a column in the middle
    moved = AxialShift(6, 5).shift_across(x)  # six channels make groups of two, two and two
    assert moved[0, :, 0].argmax(1).tolist() == [1, 1, 2, 2, 3, 3]
    assert AxialShift(10, 5).shift_down(torch.eye(10)[None, :, None, :].transpose(2, 3)).shape == (1, 10, 10, 1)


def test_permute_mixes_a_row_and_segments():
    """One row of two cells with two channels: the layer sees, for each segment of channels, both cells."""
    from vertebra.backbones.vip import Permute

    layer = Permute(2, 2, columns=False)
    layer.linear.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # swaps its inputs
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert layer(x)[0, 0].tolist() == [[2, 3], [0, 1]]  # the cells of the first row, swapped
    layer.columns = True
    assert layer(x)[0, :, 0].tolist() == [[4, 5], [0, 1]]


def test_merge_weighs_three_branches():
    merge = Merge(4)
    nn.init.zeros_(merge.expand.weight)
    merge.expand.bias.data = torch.tensor([0.0, 0.0, 50.0] * 4)  # all for the third
    first, second, third = torch.randn(3, 2, 3, 3, 4)
    torch.testing.assert_close(merge(first, second, third), third)
    nn.init.zeros_(merge.expand.bias)
    torch.testing.assert_close(merge(first, second, third), (first + second + third) / 3)


def test_res2_groups_receive_the_output_before():
    layer = Res2Conv(1, 3, first=False).eval()
    for conv in layer.convs:
        nn.init.dirac_(conv.conv.weight)  # passes its input on; the norm and ReLU keep what is not negative
    x = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    with torch.no_grad():
        assert layer(x)[0, :, 2, 2].tolist() == pytest.approx([1, 11, 100], rel=1e-4)
        apart = Res2Conv(1, 3, 2, first=True).eval()
        for conv in apart.convs:
            nn.init.dirac_(conv.conv.weight)
        # Strided, the groups stay apart, and the pool counts the zeros around the map.
        y = apart(x)[0]
    assert y[:, 1, 1].tolist() == pytest.approx([1, 10, 100], rel=1e-4)
    assert float(y[2, 0, 0]) == pytest.approx(100 * 4 / 9, rel=1e-4)


def test_patches_pad_what_is_missing():
    patches = PatchEmbed(1, 1, 4)
    nn.init.ones_(patches.weight)
    nn.init.zeros_(patches.bias)
    assert patches(torch.ones(1, 1, 5, 8))[0, 0].tolist() == [[16, 16], [4, 4]]


def test_positions_are_resampled_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    table = torch.arange(4.0).view(1, 4, 1)
    assert resize_grid(table, (2, 2), (2, 2)) is table
    table = torch.randn(1, 20, 3)
    for size in ((7, 9), (3, 2), (4, 8)):
        theirs = resample_abs_pos_embed(table, list(size), [4, 5], num_prefix_tokens=0)
        torch.testing.assert_close(resize_grid(table, size, (4, 5)), theirs)


def test_folded_layers_equal_the_plain_ones():
    torch.manual_seed(0)
    for approximate in ("none", "tanh"):
        model, x = nn.Sequential(Mlp(12, 40, approximate), nn.Linear(12, 5)), torch.randn(3, 7, 12)
        with torch.no_grad():
            before = model(x)
            torch.testing.assert_close(fold(model)(x), before, rtol=1e-5, atol=1e-6)


def test_folded_layers_compute_in_half_precision_under_autocast():
    torch.manual_seed(0)
    model = nn.Sequential(ConvNorm(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Flatten(2), nn.Linear(36, 5), LinearGelu(5, 7))
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        exact = model.eval()(x)
        fold(model)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.02)
        torch.testing.assert_close(model(x), exact, rtol=1e-5, atol=1e-5)  # and back


def test_norm_in_place_equals_the_norm():
    """Where nothing is recorded ConvNorm norms in place; the numbers are the same and its input is left alone."""
    torch.manual_seed(0)
    layer, x = ConvNorm(3, 4, 3).eval(), torch.randn(2, 3, 6, 6)
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    expected, before = layer(x).detach(), x.clone()
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
        half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(x, before)


class NormAct(nn.BatchNorm2d):
    """A batch norm with a dropout and an activation in it, as timm's."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize("kind", ["frozen", "sync", "group"])
def test_a_replaced_norm_keeps_the_activation_inside_it(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 1), NormAct(32)).eval()
    network[1].running_mean.normal_()
    x = torch.randn(2, 3, 4, 4)
    expected, names = network(x), set(network.state_dict())
    replaced = replace_norm(copy.deepcopy(network), kind).eval()
    assert type(replaced[1]) is not NormAct
    assert set(replaced.state_dict()) <= names
    y = replaced(x)
    assert (y >= 0).all()
    assert (y == 0).any()
    if kind != "group":
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_large_maps_are_the_same_in_either_memory_order(monkeypatch, bias):
    torch.manual_seed(0)
    layer = ConvNorm(4, 3, 3, norm=False, activation="none", bias=bias).to(memory_format=torch.channels_last)
    layer.conv.bias = layer.conv.bias if bias else None
    x = torch.randn(2, 4, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer.conv(x).square().sum(), inputs)
    monkeypatch.setattr(convolution, "LARGE", 4 * 16 * 16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    y = layer(x)
    assert "ContiguousGradients" in str(y.grad_fn)
    for gradient, other in zip(torch.autograd.grad(y.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(gradient, other)
    layer.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(layer(x).square().sum(), x)[0], expected[0])


@pytest.mark.parametrize("usual", ["AVX512", "small", "autocast", "contiguous", "no_grad"])
def test_where_the_memory_order_stays(monkeypatch, usual):
    monkeypatch.setattr(convolution, "LARGE", 2000 if usual == "small" else 1000)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if usual == "AVX512" else "AVX2")
    layer = ConvNorm(4, 3, 3, norm=False, activation="none")
    x = torch.randn(1, 4, 16, 16).contiguous(memory_format=torch.channels_last)
    x = x.contiguous() if usual == "contiguous" else x
    with torch.autocast("cpu", enabled=usual == "autocast"), torch.set_grad_enabled(usual != "no_grad"):
        assert "ContiguousGradients" not in str(layer(x).grad_fn)
