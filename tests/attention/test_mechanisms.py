"""What every mechanism keeps: masks, half precision, gradients, export, leading dimensions; and torch's attention."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vertebra.attention import (
    Attention,
    MultiDimensionalAttention,
    MultiHeadAttention,
    SelfAttention,
    SlidingAttention,
    Windowed,
    attention,
    maps,
)
from vertebra.attention.attention import SHORT
from vertebra.attention.masks import causal_mask, padding_mask, sliding_mask
from vertebra.attention.positions import RelativeBias, Rotary
from vertebra.attention.scores import Additive, Bilinear, Concat, Cosine, Dot, Gaussian, Location, ScaledDot
from vertebra.attention.softmax import masked_softmax
from vertebra.errors import VertebraError

SCORES = {
    "additive": lambda: Additive(4, 4, 5),
    "bilinear": lambda: Bilinear(4, 4),
    "concat": lambda: Concat(4, 4, 5),
    "cosine": lambda: Cosine(2.0, learned=True),
    "dot": Dot,
    "gaussian": lambda: Gaussian(2.0, learned=True),
    "location": lambda: Location(4, 8),
    "scaled_dot": ScaledDot,
    "rotary": Rotary,
    "relative_bias": lambda: RelativeBias((8,), 1),
}
MECHANISMS = {name: lambda build=build: Attention(build()) for name, build in SCORES.items()} | {
    "causal": lambda: Attention(causal=True),
    "causal_additive": lambda: Attention(Additive(4, 4, 5), causal=True),
    "multi_head": lambda: MultiHeadAttention(4, 2),
    "multi_head_additive": lambda: MultiHeadAttention(4, 2, Attention(Additive(2, 2, 3))),
    "multi_head_bias": lambda: MultiHeadAttention(4, 2, Attention(RelativeBias((8,), 2))),
    "multi_dimensional": lambda: MultiDimensionalAttention(4, 4, 4, 5),
    "sliding": lambda: SlidingAttention(2),
    "sliding_gaussian": lambda: SlidingAttention(2, Gaussian()),
    "sliding_causal": lambda: SlidingAttention(2, Rotary(), causal=True),
    "windowed": lambda: Windowed((3,)),
    "windowed_shifted": lambda: Windowed((4,), MultiHeadAttention(4, 2), shifted=True),
}
every = pytest.mark.parametrize("build", MECHANISMS.values(), ids=MECHANISMS)


def inputs(*lead: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*lead, 7, 4, dtype=dtype) for _ in range(3)]


def keys_mask() -> Tensor:
    """[2, 1, 7]; the second sequence is empty."""
    return padding_mask(torch.tensor([5, 0]), 7)


def bias(mechanism: nn.Module) -> Tensor | float:
    """The output where nothing may be attended."""
    inner = mechanism.attention if isinstance(mechanism, Windowed) else mechanism
    return inner.project.bias if isinstance(inner, MultiHeadAttention) else 0.0


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fully_masked_rows_are_zero(build, dtype):
    mechanism = build().to(dtype)
    query, key, value = (x.requires_grad_() for x in inputs(2, dtype=dtype))
    output = mechanism(query, key, value, keys_mask())
    torch.testing.assert_close(output[1], torch.zeros(7, 4, dtype=dtype) + bias(mechanism))
    assert output[0].abs().max() > 0
    output.sum().backward()
    for x in (query, key, value, *mechanism.parameters()):
        assert x.grad is None or x.grad.isfinite().all()
    weights = mechanism.weights(query, key, keys_mask())
    assert weights.isfinite().all()
    assert not weights[1].any()


def test_kernels_that_give_nan_for_fully_masked_rows(monkeypatch):
    """As some of CUDA do."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, is_causal: bool, scale: float) -> Tensor:
        scores = (query @ key.transpose(-2, -1)).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ value

    monkeypatch.setattr(attention, "scaled_dot_product_attention", kernel)
    query, key, value = (x.requires_grad_() for x in inputs(2))
    output = Attention(Dot())(query, key, value, keys_mask())
    output.sum().backward()
    assert not output[1].any()
    assert query.grad.isfinite().all()


@every
def test_masked_keys_do_not_count(build):
    mechanism = build()
    query, key, value = inputs(2)
    mask = torch.tensor([True, True, False, True, True, False, True])
    output = mechanism(query, key, value, mask[None])
    key[:, ~mask] += torch.randn(4)
    value[:, ~mask] += torch.randn(4)
    torch.testing.assert_close(mechanism(query, key, value, mask[None]), output)
    torch.testing.assert_close(mechanism(query, key, value, mask.expand(2, 1, 7)), output)
    allowed = mechanism(query, key, value)
    assert not torch.allclose(allowed, output)
    torch.testing.assert_close(mechanism(query, key, value, torch.ones(1, 7, dtype=torch.bool)), allowed)


@every
def test_gradients(build):
    mechanism = build().double()
    query, key, value = (x.requires_grad_() for x in inputs(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *x: mechanism(*x, keys_mask()), (query, key, value), fast_mode=True)
    names, parameters = zip(*mechanism.named_parameters(), strict=True) if list(mechanism.parameters()) else ((), ())

    def by_parameters(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(mechanism, state, (query.detach(), key.detach(), value.detach()))

    if parameters:
        assert torch.autograd.gradcheck(by_parameters, parameters, fast_mode=True)


@every
def test_export(build):
    mechanism = build()
    exported = torch.export.export(mechanism, (*inputs(2), keys_mask()))
    other = [x.flip(0) for x in inputs(2)]
    torch.testing.assert_close(exported.module()(*other, keys_mask()), mechanism(*other, keys_mask()))


@every
def test_leading_dimensions(build):
    mechanism = build()
    query, key, value = inputs(3, 2, 2)
    output, weights = mechanism(query, key, value), mechanism.weights(query, key)
    masked = mechanism(query, key, value, keys_mask())  # [2, 1, 7] for [3, 2, 2, 7, 4]
    for part in ((0, 1), (2, 0)):
        alone = query[part], key[part], value[part]
        torch.testing.assert_close(output[part], mechanism(*alone))
        torch.testing.assert_close(weights[part], mechanism.weights(*alone[:2]))
        torch.testing.assert_close(masked[part], mechanism(*alone, keys_mask()))


@pytest.mark.parametrize(
    "name", [*SCORES, "causal", "causal_additive", "sliding", "sliding_gaussian", "sliding_causal"]
)
def test_the_fast_path_is_the_written_out_form(name):
    mechanism = MECHANISMS[name]()
    query, key, value = inputs(2)
    for mask in (None, keys_mask()):
        torch.testing.assert_close(mechanism(query, key, value, mask), mechanism.weights(query, key, mask) @ value)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "relative_bias"])
def test_every_score_in_heads(name):
    attention = SelfAttention(8, 2, Attention(SCORES[name]()))
    x = torch.randn(2, 7, 8)
    weights = attention.weights(x)
    assert weights.shape == (2, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 7))
    values = attention.qkv(x)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(attention(x), attention.project((weights @ values).transpose(1, 2).flatten(2)))


def test_multi_head_is_torchs():
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3, key_width=8, value_width=10)
    theirs = nn.MultiheadAttention(12, 3, kdim=8, vdim=10, batch_first=True)
    for name, layer in (("q", ours.query), ("k", ours.key), ("v", ours.value)):
        getattr(theirs, f"{name}_proj_weight").data = layer.weight.data
    theirs.in_proj_bias.data = torch.cat([layer.bias.data for layer in (ours.query, ours.key, ours.value)])
    theirs.out_proj.load_state_dict(ours.project.state_dict())
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 8), torch.randn(2, 7, 10)
    padding = padding_mask(torch.tensor([7, 4]), 7)
    expected, weights = theirs(query, key, value, key_padding_mask=~padding[:, 0], average_attn_weights=False)
    torch.testing.assert_close(ours(query, key, value, padding), expected)
    torch.testing.assert_close(ours.weights(query, key, padding), weights)
    torch.testing.assert_close(ours.attend(query, *ours.project_keys(key, value), padding), expected)


def test_causal_is_torchs():
    query, key, value = inputs(2, 3)
    attention = Attention(causal=True)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(attention(query, key, value), expected)
    torch.testing.assert_close(attention(query[..., 4:, :], key, value), expected[..., 4:, :])
    torch.testing.assert_close(attention(query, key, value, torch.ones(7, dtype=torch.bool)), expected)


def test_masks_by_hand():
    lower = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert torch.equal(causal_mask(3), lower)
    assert torch.equal(causal_mask(2, 3), lower[1:])
    assert padding_mask(torch.tensor([[2], [0]]), 3).tolist() == [[[[True, True, False]]], [[[False] * 3]]]
    assert torch.equal(sliding_mask(3, 1), torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool))
    assert torch.equal(
        sliding_mask(3, 1, causal=True), torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    )


def test_masked_softmax_by_hand():
    scores = torch.tensor([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    e = torch.tensor(1.0).exp()
    expected = torch.tensor([[1 / (1 + e), e / (1 + e), 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(masked_softmax(scores, mask), expected)
    torch.testing.assert_close(masked_softmax(scores.T, mask.T, 0), expected.T)
    assert torch.equal(masked_softmax(scores), scores.softmax(-1))


def test_multi_dimensional_by_hand():
    """Every feature selects for itself: here the first feature the first value, the second one the second."""
    attention = MultiDimensionalAttention(1, 2, 2, 2)
    for layer in (attention.query, attention.key, attention.score):
        nn.init.zeros_(layer.weight)
    attention.query.weight.data[:] = 1.0
    attention.key.bias.data[:] = 0.0
    attention.key.weight.data = torch.eye(2)
    attention.score.weight.data = torch.eye(2)
    query, key = torch.tensor([[1.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # hidden: 3, 1 and 1, 3
    weights = torch.tensor([3.0, 1.0]).softmax(0)
    torch.testing.assert_close(attention.weights(query, key)[0], torch.stack((weights, weights.flip(0))))
    value = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    expected = torch.stack((weights @ value[:, 0], weights.flip(0) @ value[:, 1]))
    torch.testing.assert_close(attention(query, key, value)[0], expected)
    key[0] = -5.0  # ELU of -4 is e^-4 - 1
    expected = torch.tensor([torch.tensor(-4.0).exp() - 1, 1.0]).softmax(0)
    torch.testing.assert_close(attention.weights(query, key)[0, :, 0], expected)


def test_directions_of_multi_dimensional_attention():
    attention, (x, _, _) = MultiDimensionalAttention(4, 4, 4, 5), inputs(1)
    before = causal_mask(7) & ~torch.eye(7, dtype=torch.bool)
    output = attention(x, x, x, before)
    assert not output[:, 0].any()
    torch.testing.assert_close(output[:, 1], x[:, 0])


def test_maps_list_the_outer_mechanism():
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = SelfAttention(4, 2)
            self.cross = MultiHeadAttention(4, 2, Attention(Additive(2, 2, 3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.cross(self.first(x, causal_mask(7)), x, value=x, mask=keys_mask())

    model, x = Decoder(), inputs(2)[0]
    weights = maps(model, x)
    assert {name: tuple(shares.shape) for name, shares in weights.items()} == {
        "first": (2, 2, 7, 7),
        "cross": (2, 2, 7, 7),
    }
    assert not weights["first"].triu(1).any()
    assert not weights["cross"][0, :, :, 5:].any()


@pytest.mark.parametrize("build", [lambda: MultiHeadAttention(6, 4), lambda: SelfAttention(6, 0)])
def test_heads_divide_the_width(build):
    with pytest.raises(VertebraError, match="must be a divisor of the width 6"):
        build()


@pytest.mark.parametrize(
    ("dtype", "keys", "gradient", "products"),
    [
        (torch.bfloat16, 12, True, True),
        (torch.bfloat16, 12, False, False),
        (torch.bfloat16, SHORT + 1, True, False),
        (torch.float32, 12, True, False),
    ],
)
def test_short_sequences_in_half_precision_are_plain_products(monkeypatch, dtype, keys, gradient, products):
    """Whose gradient is faster on CPUs; the result is the same."""
    torch.manual_seed(0)
    chosen = []
    monkeypatch.setattr(attention, "sdpa_kernel", lambda backend: chosen.append(backend) or sdpa_kernel(backend))
    query, key, value = (torch.randn(2, 3, n, 8, dtype=dtype) for n in (5, keys, keys))
    mask = torch.rand(2, 1, 1, keys) > 0.3
    with torch.set_grad_enabled(gradient):
        y = Attention()(query, key, value, mask)
    assert chosen == [SDPBackend.MATH] * products
    expected = Attention()(*(x.float() for x in (query, key, value)), mask)
    torch.testing.assert_close(y.float(), expected, rtol=0.03, atol=0.02)
