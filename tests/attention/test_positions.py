"""Position encodings by hand."""

import math

import pytest
import torch

from vertebra.attention import Attention, MultiHeadAttention
from vertebra.attention.positions import Learned, Learned2d, RelativeBias, Rotary, Sinusoidal
from vertebra.attention.positions.rotary import rotate
from vertebra.errors import VertebraError


def test_sinusoidal_by_hand():
    encoded = Sinusoidal()(torch.ones(2, 3, 4))
    waves = [[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(encoded, 1 + torch.tensor([waves, waves]))
    torch.testing.assert_close(Sinusoidal()(torch.ones(1, 4), start=2), encoded[0, 2:])
    with pytest.raises(VertebraError, match=r"5 channels .* must be even"):
        Sinusoidal()(torch.zeros(2, 5))


def test_learned_by_hand():
    positions = Learned(3, 2)
    positions.table.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    torch.testing.assert_close(positions(torch.zeros(1, 2, 2)), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    torch.testing.assert_close(positions(torch.ones(1, 2), start=2), torch.tensor([[6.0, 7.0]]))
    with pytest.raises(VertebraError, match="4 positions, and there are embeddings for the first 3"):
        positions(torch.zeros(2, 2), start=2)


def test_learned_2d_by_hand():
    positions = Learned2d((2, 3), 2)
    positions.rows.data = torch.tensor([[1.0], [2.0]])
    positions.columns.data = torch.tensor([[10.0], [20.0], [30.0]])
    expected = torch.tensor([[[1.0, 10.0], [1.0, 20.0]], [[2.0, 10.0], [2.0, 20.0]]])
    torch.testing.assert_close(positions(torch.zeros(1, 2, 2, 2)), expected[None])
    with pytest.raises(VertebraError, match="3 rows, and there are embeddings for the first 2"):
        positions(torch.zeros(3, 3, 2))
    with pytest.raises(VertebraError, match="width is 3"):
        Learned2d((2, 2), 3)


def test_rotary_by_hand():
    ones = torch.tensor([1.0, 0.0]).expand(3, 2)
    torch.testing.assert_close(rotate(ones), torch.tensor([[math.cos(p), math.sin(p)] for p in range(3)]))
    place = torch.arange(3.0)
    torch.testing.assert_close(Rotary()(ones, ones), (place[:, None] - place).cos() / math.sqrt(2))
    torch.testing.assert_close(Rotary()(ones[2:], ones), (2 - place)[None].cos() / math.sqrt(2))  # the last query


def test_rotary_knows_offsets_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 8), torch.randn(2, 8)
    apart = [rotate(query, start) @ rotate(key, start + 5).T for start in (0, 40)]
    torch.testing.assert_close(apart[0], apart[1], rtol=1e-4, atol=1e-5)


def test_relative_bias_by_hand():
    score = RelativeBias((3,), 1)
    score.bias_table.data = torch.arange(5.0)[:, None]
    bias = torch.tensor([[2.0, 1.0, 0.0], [3.0, 2.0, 1.0], [4.0, 3.0, 2.0]])  # row q - k + 2
    torch.testing.assert_close(score(torch.zeros(3, 4), torch.zeros(3, 4)), bias[None])
    torch.testing.assert_close(score(torch.zeros(1, 4), torch.zeros(2, 4)), bias[None, 1:2, :2])
    with pytest.raises(VertebraError, match="4 keys, and biases for the first 3"):
        score(torch.zeros(4, 4), torch.zeros(4, 4))


@pytest.mark.parametrize("build", [lambda: Rotary(), lambda: RelativeBias((6,), 2)])
def test_positions_tell_the_order(build):
    """Without them, exchanging two keys with their values changes nothing."""
    torch.manual_seed(0)
    x, exchanged = torch.randn(1, 6, 8), [1, 0, 2, 3, 4, 5]
    plain, placed = MultiHeadAttention(8, 2), MultiHeadAttention(8, 2, Attention(build()))
    torch.testing.assert_close(plain(x, x, x), plain(x, x[:, exchanged], x[:, exchanged]))
    assert (placed(x, x, x) - placed(x, x[:, exchanged], x[:, exchanged])).abs().max() > 1e-4


@pytest.mark.parametrize("build", [lambda: Rotary(), lambda: RelativeBias((6,), 2)])
def test_a_decoder_step_is_the_last_row(build):
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(8, 2, Attention(build(), causal=True)), torch.randn(1, 6, 8)
    torch.testing.assert_close(attention(x[:, -1:], x, x), attention(x, x, x)[:, -1:])


def test_what_biases_are_not_for():
    bias = RelativeBias((6,), 2)
    with pytest.raises(VertebraError, match="there are 5 queries and 4 keys; each query has the place of a key"):
        bias(torch.zeros(2, 5, 3), torch.zeros(2, 4, 3))
    for shape in ((5, 3), (3, 5, 3)):
        with pytest.raises(VertebraError, match=r"the query is \[.*5, 3\], and biases are for \[..., 2 heads, Q, D\]"):
            bias(torch.zeros(shape), torch.zeros(shape))
