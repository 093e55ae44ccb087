"""Every score by hand."""

import math

import pytest
import torch
from torch import Tensor

from vertebra.attention import Attention
from vertebra.attention.scores import Additive, Bilinear, Concat, Cosine, Dot, Gaussian, Location, ScaledDot, sharpen
from vertebra.errors import VertebraError

QUERY = torch.tensor([[1.0, 2.0]])
KEYS = torch.tensor([[3.0, 4.0], [0.0, -1.0]])


def test_dot_and_scaled_dot():
    torch.testing.assert_close(Dot()(QUERY, KEYS), torch.tensor([[11.0, -2.0]]))
    torch.testing.assert_close(ScaledDot()(QUERY, KEYS), torch.tensor([[11.0, -2.0]]) / math.sqrt(2))


def test_bilinear():
    score = Bilinear(2, 3)
    matrix = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]])  # W, [D, D']
    score.map.weight.data = matrix.T
    keys = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, -1.0]])
    torch.testing.assert_close(score(QUERY, keys), torch.tensor([[7.0, 15.0]]))  # q^T W = 7, 10, 2


def test_additive_and_concat():
    additive = Additive(2, 2, 1)
    additive.query.weight.data = torch.tensor([[1.0, 0.0]])
    additive.key.weight.data = torch.tensor([[0.0, 0.25]])
    additive.sum.weight.data = torch.tensor([[2.0]])
    expected = torch.tensor([[2 * math.tanh(1 + 1), 2 * math.tanh(1 - 0.25)]])
    torch.testing.assert_close(additive(QUERY, KEYS), expected)
    concat = Concat(2, 2, 1)
    concat.hidden.weight.data = torch.tensor([[1.0, 0.0, 0.0, 0.25]])
    concat.sum.weight.data = torch.tensor([[2.0]])
    torch.testing.assert_close(concat(QUERY, KEYS), expected)


def test_concat_is_a_network_on_the_pair():
    torch.manual_seed(0)
    score, query, key = Concat(3, 4, 5), torch.randn(2, 6, 3), torch.randn(2, 7, 4)
    pair = torch.cat((query[:, :, None].expand(-1, -1, 7, -1), key[:, None].expand(-1, 6, -1, -1)), -1)
    torch.testing.assert_close(score(query, key), score.sum(score.hidden(pair).tanh())[..., 0])


def test_cosine_of_any_length():
    query = torch.tensor([[3.0, 4.0]])
    keys = torch.tensor([[4.0, 3.0], [-300.0, -400.0], [0.0, 0.0]])
    torch.testing.assert_close(Cosine()(query, keys), torch.tensor([[0.96, -1.0, 0.0]]))
    learned = Cosine(2.0, learned=True)
    torch.testing.assert_close(learned(query, keys), torch.tensor([[1.92, -2.0, 0.0]]))
    learned(query, keys).sum().backward()
    assert learned.log_factor.grad == pytest.approx(1.92 - 2.0)
    assert not list(Cosine(2.0).parameters())


def test_sharpening():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [1e-30, 0.0, 2e-30]])
    expected = torch.tensor([[2 / 3, 1 / 6, 1 / 6], [0.0, 0.0, 0.0], [0.2, 0.0, 0.8]])
    torch.testing.assert_close(sharpen(weights, 2.0), expected)
    powers = torch.tensor([[1.0], [1.0], [3.0]])
    torch.testing.assert_close(sharpen(weights, powers)[2], torch.tensor([1 / 9, 0.0, 8 / 9]))
    scores = torch.randn(4, 5)
    torch.testing.assert_close(sharpen(scores.softmax(-1), 3.0), (3 * scores).softmax(-1))


def test_location_counts_keys():
    score = Location(1, 3)
    score.places.weight.data = torch.tensor([[1.0], [2.0], [3.0]])
    query = torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(score(query, torch.randn(2, 9)), torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    attention = Attention(score)
    expected = torch.tensor([1.0, 2.0, 3.0, -math.inf]).softmax(0)
    torch.testing.assert_close(attention.weights(query, torch.randn(4, 9))[0], expected)
    after = torch.tensor([False, False, False, True])  # the one key allowed is after the last row of W
    assert not attention.weights(query, torch.randn(4, 9), after).any()


def test_gaussian_is_kernel_regression():
    query, keys, values = torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    kernel = math.exp(-0.5)
    torch.testing.assert_close(Attention(Gaussian())(query, keys, values), torch.tensor([[kernel / (1 + kernel)]]))
    kernel = math.exp(-0.5 / 0.25)
    torch.testing.assert_close(Attention(Gaussian(0.5))(query, keys, values), torch.tensor([[kernel / (1 + kernel)]]))


def test_a_learned_width_fits():
    """Of noise-free samples of a step, the narrow kernel predicts left-out ones best."""
    place = torch.linspace(0, 1, 20)[:, None]
    values = (place > 0.5).float()
    attention = Attention(Gaussian(0.5, learned=True))
    others = ~torch.eye(20, dtype=torch.bool)

    def error() -> Tensor:
        return (attention(place, place, values, others) - values).square().mean()

    before = error()
    for _ in range(20):
        error().backward()
        attention.score.log_factor.data -= 20 * attention.score.log_factor.grad
        attention.score.log_factor.grad = None
    assert error() < 0.5 * before
    assert attention.score.log_factor < -1


@pytest.mark.parametrize(("build", "name"), [(Gaussian, "sigma"), (Cosine, "strength")])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_widths_are_positive(build, name, value):
    with pytest.raises(VertebraError, match=f"{name} is .* must be 1e-06 or more"):
        build(value)


def test_products_stay_in_the_range_of_float16():
    """The product of 64 components of 40 is 102,400, past 65,504; with the scale it is 12,800."""
    x = torch.full((1, 64), 40.0, dtype=torch.float16)
    assert ScaledDot()(x, x).item() == 12800


@pytest.mark.parametrize(
    ("score", "query", "keys"), [(Gaussian(0.1), 0.0, (40.0, 50.0)), (Dot(), 300.0, (300.0, 300.0))]
)
def test_scores_that_float16_cannot_hold(score, query, keys):
    query = torch.full((1, 1), query, dtype=torch.float16)
    key = torch.tensor(keys, dtype=torch.float16)[:, None]
    torch.testing.assert_close(Attention(score).weights(query, key).sum(), torch.ones((), dtype=torch.float16))
