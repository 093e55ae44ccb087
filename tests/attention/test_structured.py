"""Worked by hand: tanh of atanh(1/2) is 1/2, and the softmax of 0 and ln 3 is 1/4 and 3/4."""

import math

import torch

from vertebra.attention.structured import StructuredAttention, overlap_penalty


def test_two_hops_by_hand():
    attention = StructuredAttention(2, 1, hops=2)
    attention.hidden.weight.data = torch.tensor([[1.0, 0.0]])
    attention.hops.weight.data = torch.tensor([[2 * math.log(3)], [0.0]])
    x = torch.tensor([[0.0, 4.0], [math.atanh(0.5), 8.0]])
    weights = attention.weights(x)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    torch.testing.assert_close(attention(x)[:, 1], torch.tensor([7.0, 6.0]))
    # A A^T is [[5/8, 1/2], [1/2, 1/2]].
    torch.testing.assert_close(overlap_penalty(weights), torch.tensor((3 / 8) ** 2 + 3 * 0.5**2))
    masked = attention.weights(x, torch.tensor([[True, False], [True, True]]))
    torch.testing.assert_close(masked, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))


def test_the_penalty_is_zero_for_different_elements():
    assert overlap_penalty(torch.eye(5)[1:3].expand(2, 3, 2, 5)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert overlap_penalty(torch.eye(5)[[1, 1]]) == 2
