"""Windows, shifted windows and sliding attention against masked full attention, FlexAttention and Swin's layer."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from vertebra.attention import Attention, MultiHeadAttention, SlidingAttention, WindowAttention, Windowed, sliding
from vertebra.attention.masks import sliding_mask
from vertebra.attention.positions import RelativeBias, Rotary
from vertebra.attention.scores import Cosine, Gaussian, Location
from vertebra.attention.window import from_windows, to_windows, window_mask
from vertebra.backbones import swin
from vertebra.backbones.swin import Block, shift_mask
from vertebra.errors import VertebraError


def test_to_windows_by_hand():
    x = torch.arange(1.0, 7.0).view(1, 6, 1)
    assert to_windows(x, (4,), (0,))[..., 0].tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]]]
    assert to_windows(x, (4,), (2,))[..., 0].tolist() == [[[3, 4, 5, 6], [0, 0, 1, 2]]]
    grid = torch.arange(16.0).view(4, 4, 1)
    assert to_windows(grid, (2, 2), (0, 0))[..., 0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]
    assert to_windows(grid, (2, 2), (1, 1))[3, :, 0].tolist() == [15, 12, 3, 0]


@pytest.mark.parametrize(("size", "window"), [((10,), (4,)), ((7, 9), (3, 4)), ((4, 4, 5), (2, 2, 3))])
@pytest.mark.parametrize("shifted", [False, True])
def test_from_windows_is_the_reverse(size, window, shifted):
    x, shift = torch.randn(2, *size, 3), [side // 2 * shifted for side in window]
    assert torch.equal(from_windows(to_windows(x, window, shift), window, shift, size), x)


def test_the_window_mask_by_hand():
    """Six cells in windows of 4, shifted by 2: cells 2 to 5, then two of padding that meet cells 0 and 1."""
    mask = window_mask((6,), (4,), (2,))
    assert mask[0].all()
    side = torch.tensor([0, 0, 1, 1])
    assert torch.equal(mask[1], side[:, None] == side)


def cells(size, window, shift):
    """The window of each cell, [cells]: what is left of the shifted ones where no cell from the other side is."""
    number = torch.zeros((), dtype=torch.long)
    for side, m, n in zip(size, window, shift, strict=True):
        number = number[..., None] * 100 + (torch.arange(side) + (m - n) % m) // m
    return number.flatten()


@pytest.mark.parametrize(("size", "window"), [((10,), (4,)), ((8,), (4,)), ((7, 9), (3, 4)), ((6, 3), (2, 4))])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("build", [Attention, lambda: MultiHeadAttention(4, 2), lambda: Attention(Gaussian())])
def test_windowed_is_masked_full_attention(size, window, shifted, build):
    torch.manual_seed(0)
    attention = build()
    query, key, value = torch.randn(3, 2, *size, 4)
    shift = [m // 2 if shifted and side > m else 0 for side, m in zip(size, window, strict=True)]
    number = cells(size, window, shift)
    mask = torch.rand(2, 1, *size) > 0.2
    flat = [x.flatten(1, -2) for x in (query, key, value)]
    windowed = Windowed(window, attention, shifted)
    for given in (None, mask):
        same = number[:, None] == number
        expected = attention(*flat, same if given is None else same & given.flatten(2))
        torch.testing.assert_close(windowed(query, key, value, given).flatten(1, -2), expected)
    weights = windowed.weights(query, key, mask)
    area = weights.shape[-1]
    assert area == torch.tensor(window).prod()
    assert weights.shape[:2] == (2, torch.tensor([-(-n // m) for n, m in zip(size, window, strict=True)]).prod())


@pytest.mark.parametrize("shifted", [False, True])
def test_windowed_attention_is_swins(shifted):
    torch.manual_seed(0)
    config = swin.Config(12, (1, 1, 1, 1), (3, 3, 3, 3), window=4)
    block = Block(config, 12, 3, shifted, 0.0)
    theirs = block.attention
    assert isinstance(theirs, WindowAttention)
    ours = Windowed((4, 4), MultiHeadAttention(12, 3, Attention(RelativeBias((4, 4), 3))), shifted)
    heads = ours.attention
    heads.attention.score.bias_table.data = theirs.bias_table.data
    for i, layer in enumerate((heads.query, heads.key, heads.value)):
        layer.weight.data, layer.bias.data = (
            theirs.qkv.weight[12 * i : 12 * i + 12],
            theirs.qkv.bias[12 * i : 12 * i + 12],
        )
    heads.project.load_state_dict(theirs.project.state_dict())
    x = torch.randn(2, 8, 12, 12)
    expected = block.attend(x, shift_mask(8, 12, 4, x))
    torch.testing.assert_close(ours(x, x, x), expected)


@pytest.mark.parametrize("length", [1, 20, 75])
@pytest.mark.parametrize(("radius", "causal"), [(0, False), (3, False), (40, False), (3, True), (40, True)])
@pytest.mark.parametrize(
    "score", [None, Rotary(), Cosine(2.0), Gaussian()], ids=["none", "rotary", "cosine", "gaussian"]
)
def test_sliding_is_masked_full_attention(length, radius, causal, score):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, length, 4)
    mask = torch.rand(2, 1, 1, length) > 0.3
    attention = SlidingAttention(radius, score, causal)
    full, near = Attention(score), sliding_mask(length, radius, causal)
    for given in (None, mask):
        expected = full(query, key, value, near if given is None else near & given)
        torch.testing.assert_close(attention(query, key, value, given), expected)
        weights = attention.weights(query, key, given)
        torch.testing.assert_close(weights, full.weights(query, key, near if given is None else near & given))


@pytest.mark.parametrize("score", [None, Rotary(), Gaussian()], ids=["none", "rotary", "gaussian"])
def test_sliding_of_the_last_queries(score):
    """As of a decoder that calls step by step."""
    query, key, value = torch.randn(3, 2, 40, 4)
    attention = SlidingAttention(3, score, causal=True)
    full = Attention(score)
    near = sliding_mask(40, 3, True)[33:]
    last = attention(query[:, 33:], key, value)
    torch.testing.assert_close(last, full(query[:, 33:], key, value, near))
    if score is None:
        torch.testing.assert_close(last, attention(query, key, value)[:, 33:])
    with pytest.raises(VertebraError, match="there are 40 queries and 7 keys; each query has the place of a key"):
        attention(query, key[:, :7], value[:, :7])


def test_window_attention_adds_its_mask():
    with pytest.raises(VertebraError, match="the mask is bool; window attention adds it to the scores"):
        WindowAttention(4, 2, 2)(torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))


@pytest.mark.parametrize("causal", [False, True])
def test_sliding_is_flex_attention(causal, monkeypatch):
    """Uncompiled on the CPU, where compiling takes a minute."""
    monkeypatch.setattr(sliding, "_compiled", lambda: flex_attention)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 50, 16)
    attention = SlidingAttention(5, Rotary(), causal)
    flexed = sliding.flex(attention.score.factors(query, key), value, 5, causal)
    torch.testing.assert_close(attention(query, key, value), flexed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention is the fast path on CUDA")
def test_sliding_on_cuda_is_sliding_on_cpu():
    torch.manual_seed(0)
    attention, x = SlidingAttention(20), torch.randn(3, 2, 4, 300, 32)
    outputs = []
    for device in ("cpu", "cuda"):
        query, key, value = (part.to(device).requires_grad_() for part in x)
        y = attention(query, key, value)
        y.square().sum().backward()
        outputs.append((y.cpu(), query.grad.cpu(), key.grad.cpu(), value.grad.cpu()))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("score", [Location(4, 9), RelativeBias((9,), 1)], ids=["location", "bias"])
def test_sliding_takes_no_score_of_places(score):
    with pytest.raises(VertebraError, match=r"scores places of a sequence as a whole.*Rotary"):
        SlidingAttention(3, score)


@pytest.mark.parametrize("mechanism", [SlidingAttention(2), Windowed((2,))], ids=["sliding", "windowed"])
def test_masks_are_of_keys(mechanism):
    x = torch.randn(1, 6, 4)
    with pytest.raises(VertebraError, match=r"the mask has the shape \[6, 6\]; .* 1, "):
        mechanism(x, x, x, torch.ones(6, 6, dtype=torch.bool))


def test_the_radius_is_not_negative():
    with pytest.raises(VertebraError, match="radius is -1; it must be 0 or more"):
        SlidingAttention(-1)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [12, 10])
def test_biases_by_head_inside_heads_and_around_them(length, masked, shifted):
    """Windows in heads are heads in windows, also where there are as many windows as heads."""
    torch.manual_seed(0)
    bias = RelativeBias((4,), 3)
    around = Windowed((4,), MultiHeadAttention(12, 3, Attention(bias)), shifted)
    inside = MultiHeadAttention(12, 3, Windowed((4,), Attention(bias), shifted))
    for name in ("query", "key", "value", "project"):
        getattr(inside, name).load_state_dict(getattr(around.attention, name).state_dict())
    x = torch.randn(2, length, 12)
    mask = torch.rand(2, 1, length) > 0.3 if masked else None
    if masked:
        mask[:, :, ::3] = True
    torch.testing.assert_close(inside(x, x, x, mask), around(x, x, x, mask))
    one, other = inside.weights(x, x, mask), around.weights(x, x, mask)  # [B, heads, windows, ...] and the reverse
    if length % 4 == 0:  # else the rows of padding, which nobody reads, differ
        torch.testing.assert_close(one, other.transpose(1, 2))


def test_heads_that_biases_need_are_missed():
    """Also where there are as many windows."""
    x = torch.randn(8, 4)
    with pytest.raises(VertebraError, match=r"the query is \[8, 4\], and biases are for \[..., 2 heads, \*size, C\]"):
        Windowed((4,), Attention(RelativeBias((4,), 2)))(x, x, x)


@pytest.mark.parametrize(
    ("window", "size", "others"), [((4,), (21,), [(5,), (8,)]), ((3, 2), (8, 7), [(4, 3), (6, 9)])]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_exported_for_any_size(window, size, others, shifted):
    torch.manual_seed(0)
    check_export(Windowed(window, MultiHeadAttention(8, 2), shifted).eval(), size, others)


def test_sliding_attention_is_exported_for_any_length():
    check_export(SlidingAttention(4), (100,), [(33,), (64,)])


def check_export(mechanism, size, others):
    dynamic = [dict.fromkeys(range(1 + len(size)), torch.export.Dim.DYNAMIC)] * 3
    program = torch.export.export(mechanism, (torch.randn(2, *size, 8),) * 3, dynamic_shapes=dynamic).module()
    for other in (size, *others):
        x = torch.randn(3, *other, 8)
        torch.testing.assert_close(program(x, x, x), mechanism(x, x, x))
