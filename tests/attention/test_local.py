import math

import pytest
import torch

from vertebra.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from vertebra.attention.scores import Additive, Bilinear, Dot, ScaledDot
from vertebra.errors import VertebraError


def test_windows_of_local_m_by_hand():
    """Equal scores, five keys, D = 1: means of the values around the query's position."""
    attention = LocalMonotonicAttention(Dot(), 1)
    query, key, value = torch.zeros(3, 2), torch.zeros(5, 2), torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    torch.testing.assert_close(attention(query, key, value), torch.tensor([[1.5], [7 / 3], [14 / 3]]))
    torch.testing.assert_close(attention(query, key, value, start=4), torch.tensor([[12.0], [16.0], [0.0]]))
    mask = torch.tensor([True, True, True, False, True])
    torch.testing.assert_close(attention(query, key, value, mask), torch.tensor([[1.5], [7 / 3], [3.0]]))


@pytest.mark.parametrize("score", [Dot(), ScaledDot(), Bilinear(4, 4), Additive(4, 4, 3)])
def test_the_fused_local_m_is_the_written_out_one(score):
    torch.manual_seed(0)
    attention = LocalMonotonicAttention(score, 2)
    query, key, value = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 5)
    mask = torch.rand(2, 1, 6, 9) < 0.6
    expected = attention.weights(query, key, mask, start=2) @ value
    torch.testing.assert_close(attention(query, key, value, mask, start=2), expected)


def test_steps_of_a_decoder_are_its_whole_sequence():
    torch.manual_seed(0)
    attention = LocalMonotonicAttention(Additive(4, 4, 3), 2)
    query, key = torch.randn(6, 4), torch.randn(9, 4)
    steps = [attention.weights(query[t : t + 1], key, start=t) for t in range(6)]
    torch.testing.assert_close(torch.cat(steps), attention.weights(query, key))


def test_the_gaussian_of_local_p_by_hand():
    """The prediction is the middle of four keys, p = 2; D = 2, so sigma = 1 and all four are inside."""
    attention = LocalPredictiveAttention(Dot(), 1, 2)
    query, key = torch.zeros(1, 1), torch.zeros(4, 1)
    gaussian = [math.exp(-2), math.exp(-0.5), 1.0, math.exp(-0.5)]
    torch.testing.assert_close(attention.weights(query, key), torch.tensor([gaussian]) / 4)
    # Of three keys, p = 1.5.
    gaussian = [math.exp(-1.125), math.exp(-0.125), math.exp(-0.125), 0.0]
    mask = torch.tensor([True, True, True, False])
    torch.testing.assert_close(attention.weights(query, key, mask), torch.tensor([gaussian]) / 3)
    value = torch.tensor([[0.0], [0.0], [3.0], [9.0]])
    torch.testing.assert_close(attention(query, key, value, mask), torch.tensor([[math.exp(-0.125)]]))


def test_the_prediction_by_hand():
    """W = 1, v = 2 ln(7/3), q = atanh(1/2): the sigmoid is 0.7, and the window around 2.8 has keys 2 and 3."""
    attention = LocalPredictiveAttention(Dot(), 1, 1)
    attention.position[0].weight.data = torch.tensor([[1.0]])
    attention.position[2].weight.data = torch.tensor([[2 * math.log(7 / 3)]])
    query, key = torch.tensor([[math.atanh(0.5)]]), torch.zeros(4, 1)
    torch.testing.assert_close(attention.centers(query, key), torch.tensor([2.8]))
    gaussian = [0.0, 0.0, math.exp(-1.28), math.exp(-0.08)]  # sigma = 1/2
    torch.testing.assert_close(attention.weights(query, key), torch.tensor([gaussian]) / 2)


def test_predictions_keep_their_precision_in_half():
    attention = LocalPredictiveAttention(Dot(), 4, 2).to(torch.bfloat16)
    query, key = torch.randn(64, 4).to(torch.bfloat16), torch.zeros(1001, 4, dtype=torch.bfloat16)
    assert attention.centers(query, key).dtype == torch.float32
    assert attention.weights(query, key).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "make", [lambda: LocalMonotonicAttention(Dot(), 0), lambda: LocalPredictiveAttention(Dot(), 1, 0)]
)
def test_a_window_has_neighbours(make):
    with pytest.raises(VertebraError, match="half_window is 0; it must be 1 or more"):
        make()
