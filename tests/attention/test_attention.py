"""Attention by hand and against torch's own, and attention maps."""

import pytest
import torch
from torch import nn

from vertebra import backbones
from vertebra.attention import SelfAttention, WindowAttention, maps
from vertebra.attention.multi_head import split_qkv
from vertebra.backbones.swin import shift_mask
from vertebra.errors import VertebraError


def test_self_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = SelfAttention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.project.weight.data, ours.project.bias.data
    x = torch.randn(2, 7, 24)
    expected, shares = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours.weights(x), shares)


def test_window_bias_by_hand():
    """A window of 2 x 2: the bias from cell a to cell b is row (dy + 1) * 3 + dx + 1 of the table, dy = y_a - y_b."""
    attention = WindowAttention(1, 1, 2)
    nn.init.zeros_(attention.qkv.weight)
    nn.init.zeros_(attention.qkv.bias)
    attention.bias_table.data = torch.arange(9.0)[:, None]
    shares = attention.weights(torch.zeros(1, 4, 1))[0, 0]
    # From the first cell: itself, right, below, below right.
    torch.testing.assert_close(shares[0], torch.tensor([4.0, 3.0, 1.0, 0.0]).softmax(0))
    torch.testing.assert_close(shares[3], torch.tensor([8.0, 7.0, 5.0, 4.0]).softmax(0))


def test_both_ways_of_window_attention_agree():
    torch.manual_seed(0)
    attention = WindowAttention(12, 3, 4)
    x, mask = torch.randn(8, 16, 12), shift_mask(8, 8, 4, torch.empty(0))
    query, key, value = split_qkv(attention.qkv(x), 3)
    bias = attention._bias(mask).repeat(2, 1, 1, 1)
    fused = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    expected = attention.project(fused.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, mask), expected, rtol=1e-5, atol=1e-6)


def test_the_shift_mask_by_hand():
    """A map of 4 x 4 in windows of 2, shifted by 1: the first window is whole, the last falls into four cells."""
    mask = shift_mask(4, 4, 2, torch.empty(0))
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()
    assert torch.equal(mask[3] == 0, torch.eye(4, dtype=torch.bool))
    left_and_right = torch.tensor([0, 1, 0, 1])  # of the second window: its columns come from different sides
    assert torch.equal(mask[1] == 0, left_and_right[:, None] == left_and_right)
    above_and_below = torch.tensor([0, 0, 1, 1])
    assert torch.equal(mask[2] == 0, above_and_below[:, None] == above_and_below)


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("vit_tiny_16", {"depth": 2}, [(2, 3, 17, 17)] * 2),
        ("deit_tiny_16_distilled", {"depth": 2}, [(2, 3, 18, 18)] * 2),
        ("swin_tiny", {"depths": (2, 1, 1, 1), "window": 4}, [(32, 3, 16, 16)] * 2 + [(8, 6, 16, 16), (2, 12, 16, 16)]),
    ],
)
def test_maps_of_every_attention(name, options, shapes):
    torch.manual_seed(0)
    model = backbones.create(name, image_size=(64, 64), **options).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)[-1]
    every = list(maps(model, images).values())
    assert [tuple(shares.shape) for shares in every[: len(shapes)]] == shapes
    for shares in every:
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
        assert not shares.requires_grad
    with torch.no_grad():
        assert torch.equal(model(images)[-1], before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_masked_windows_do_not_attend_across():
    torch.manual_seed(0)
    model = backbones.create("swin_tiny", depths=(2, 1, 1, 1), window=4).eval()
    shifted = list(maps(model, torch.randn(1, 3, 64, 64)).values())[1]  # 16 windows of a map of 16 x 16
    mask = shift_mask(16, 16, 4, torch.empty(0))
    assert float(shifted[(mask < 0)[:, None].expand_as(shifted)].max()) < 1e-30


def test_models_without_attention_raise():
    with pytest.raises(VertebraError, match="no attention maps; ViT, DeiT and Swin have"):
        maps(backbones.create("resnet18"), torch.zeros(1, 3, 32, 32))
