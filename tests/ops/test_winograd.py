"""Winograd's algorithm: the numbers of a direct convolution, at every size."""

import pytest
import torch
from torch.nn.functional import conv2d

from vertebra.nn import conv as layers
from vertebra.nn.conv import ConvNorm
from vertebra.nn.fold import FoldedConv, fold
from vertebra.nn.norm import replace_norm
from vertebra.ops import winograd
from vertebra.ops.winograd import winograd_conv, winograd_weight, winograd_weight_gradient


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (9, 8), (17, 23)])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_it_is_the_convolution(size, band, monkeypatch):
    monkeypatch.setattr(winograd, "BAND", band)
    x = torch.randn(2, 5, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = torch.arange(7, dtype=torch.float64)
    for order in (torch.contiguous_format, torch.channels_last):
        for added in (bias, None):
            y = winograd_conv(x.contiguous(memory_format=order), winograd_weight(weight), added)
            assert y.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(y, conv2d(x, weight, added, padding=1), rtol=0, atol=1e-12)
    assert winograd_conv(x[:0], winograd_weight(weight)).shape == (0, 7, *size)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (9, 8), (17, 23)])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_its_gradient_by_the_weight(size, band, monkeypatch):
    monkeypatch.setattr(winograd, "BAND", band)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, *size, dtype=torch.float64, generator=generator)
    gradient = torch.randn(3, 7, *size, dtype=torch.float64, generator=generator)
    expected = torch.nn.grad.conv2d_weight(x, (7, 5, 3, 3), gradient, padding=1)
    for order in (torch.contiguous_format, torch.channels_last):
        ours = winograd_weight_gradient(*(t.contiguous(memory_format=order) for t in (x, gradient)))
        assert torch.allclose(ours, expected, rtol=0, atol=1e-11)
    assert torch.equal(winograd_weight_gradient(x[:0], gradient[:0]), torch.zeros(7, 5, 3, 3, dtype=torch.float64))


def test_it_is_as_precise_as_a_direct_convolution():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 256, 32, 32, generator=generator), torch.randn(32, 256, 3, 3, generator=generator) / 48
    exact = conv2d(x.double(), weight.double(), padding=1)
    assert float((winograd_conv(x, winograd_weight(weight)) - exact).abs().max()) < 2e-5  # of values up to 5
    gradient = torch.randn(1, 32, 32, 32, generator=generator)
    exact = torch.nn.grad.conv2d_weight(x.double(), weight.shape, gradient.double(), padding=1)
    assert float((winograd_weight_gradient(x, gradient) - exact).abs().max()) < 3e-4  # of values up to 140


@pytest.mark.parametrize("activation", ["relu", "silu", "none"])
@pytest.mark.parametrize("keeps_residual", [True, False])
def test_a_folded_layer(activation, keeps_residual, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(layers, "WIDE", 4)
    torch.manual_seed(0)
    layer = ConvNorm(6, 6, 3, activation=activation).eval()
    layer.norm.running_var.uniform_(0.5, 2)
    layer.norm.running_mean.normal_()
    layer.keeps_residual = keeps_residual
    folded = FoldedConv(layer)
    x, residual = torch.randn(2, 6, 30, 32), torch.randn(2, 6, 30, 32)
    with torch.inference_mode():
        assert torch.allclose(folded(x), layer(x), atol=2e-5)
        kept = residual.clone()
        assert torch.allclose(folded(x, residual.clone()), layer(x, residual), atol=2e-5)
        if keeps_residual:
            folded(x, residual)
            assert torch.equal(residual, kept)
        assert folded.conv._transformed is not None
        small = x[..., :4, :4]  # too few tiles: oneDNN computes it
        assert folded._packed is None
        assert torch.allclose(folded(small), layer(small), atol=2e-5)
        assert folded._packed is not None
    assert folded.float().conv._transformed is None


def test_wide_convolutions_of_every_layer_are_replaced(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(layers, "WIDE", 4)
    torch.manual_seed(0)
    normed = replace_norm(ConvNorm(4, 4, 3), "group")  # which cannot be folded
    plain = torch.nn.Conv2d(4, 5, 3, padding=1)
    model = torch.nn.Sequential(plain, torch.nn.Conv2d(5, 4, 3, 2, 1), normed).eval()
    x = torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        fold(model)
        assert torch.allclose(model(x), expected, atol=1e-5)
    assert model[0]._transformed is not None
    assert model[2].conv._transformed is not None
    assert type(model[1]) is torch.nn.Conv2d
    assert model[0].weight is plain.weight
    assert torch.allclose(model(x), expected, atol=1e-5)  # where gradients are recorded


@pytest.mark.parametrize("size", [(8, 8), (9, 10)])
def test_gradients_of_a_wide_layer(monkeypatch, size):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(layers, "WIDE", 4)
    monkeypatch.setattr(layers, "LARGE", 0)
    monkeypatch.setattr(layers, "TILES", 1)
    used = []
    for function in (winograd_conv, winograd_weight_gradient):
        monkeypatch.setattr(
            layers, function.__name__, lambda *given, function=function: (used.append(function), function(*given))[1]
        )
    torch.manual_seed(0)
    layer = ConvNorm(4, 6, 3, norm=False)
    x = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = (x, layer.conv.weight, layer.conv.bias)
    weights = torch.randn(2, 6, *size)
    expected = torch.nn.functional.conv2d(*inputs, padding=1).relu()
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    y = layer(x)
    assert "ReluBackward" in str(y.grad_fn)
    assert "ContiguousGradients" in str(y.grad_fn.next_functions)
    assert torch.allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad((y * weights).sum(), inputs), gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert used == [winograd_conv, winograd_conv, winograd_weight_gradient]  # output and gradient by the input first
    assert layer(x[:0]).shape == (0, 6, *size)
