import torch

from vertebra.attention.scores import Dot
from vertebra.attention.soft import SoftAttention, coverage_penalty


def test_the_gate_by_hand():
    """Equal weights, and a gate of sigmoid(0) = 1/2."""
    attention = SoftAttention(Dot(), 2)
    torch.nn.init.zeros_(attention.gate.weight)
    torch.nn.init.zeros_(attention.gate.bias)
    query, key, value = torch.ones(1, 2), torch.zeros(2, 2), torch.tensor([[2.0], [4.0]])
    torch.testing.assert_close(attention(query, key, value), torch.tensor([[1.5]]))
    torch.testing.assert_close(attention.weights(query, key), torch.tensor([[0.5, 0.5]]))


def test_the_penalty_by_hand():
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])  # the cells sum to 3/4 and 5/4
    assert coverage_penalty(weights) == 0.125
    assert coverage_penalty(torch.eye(3)) == 0
