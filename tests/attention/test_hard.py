import math

import pytest
import torch
from torch import nn

from vertebra.attention.hard import Glimpse, HardAttention, Reinforce
from vertebra.attention.scores import Dot
from vertebra.errors import VertebraError

WEIGHTS = torch.tensor([0.25, 0.75])
QUERY, KEY, VALUE = torch.ones(1, 1), torch.tensor([[0.0], [math.log(3)]]), torch.tensor([[4.0], [8.0]])


def test_the_largest_weight_is_taken():
    attention = HardAttention(Dot())
    torch.testing.assert_close(attention.weights(QUERY, KEY), WEIGHTS[None])
    assert attention(QUERY, KEY, VALUE).tolist() == [[8.0]]
    assert attention(QUERY, KEY, VALUE, torch.tensor([True, False])).tolist() == [[4.0]]


def test_draws_have_the_probabilities_of_the_weights():
    torch.manual_seed(0)
    glimpse = HardAttention(Dot(), soft=0).sample(QUERY.expand(20_000, 1, 1), KEY, VALUE)
    second = glimpse.output.flatten() == 8
    assert (second | (glimpse.output.flatten() == 4)).all()
    assert abs(second.float().mean() - 0.75) < 0.01
    torch.testing.assert_close(glimpse.log_probability.flatten(), torch.where(second, WEIGHTS[1], WEIGHTS[0]).log())
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    torch.testing.assert_close(glimpse.entropy, torch.full((20_000, 1), entropy))


def test_expected_values_have_no_gradient_of_the_reward():
    score = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    glimpse = HardAttention(Dot(), soft=1).sample(QUERY, score, VALUE)
    torch.testing.assert_close(glimpse.output, torch.tensor([[7.0]]))
    (gradient,) = torch.autograd.grad(glimpse.log_probability.sum(), score, retain_graph=True)
    torch.testing.assert_close(gradient, torch.zeros(2, 1))
    (gradient,) = torch.autograd.grad(glimpse.output.sum(), score)
    torch.testing.assert_close(gradient, torch.tensor([[-0.75], [0.75]]))  # a_i (v_i - 7)


def test_a_sequence_is_expected_or_drawn_as_a_whole():
    torch.manual_seed(0)
    glimpse = HardAttention(Dot(), soft=0.5).sample(QUERY.expand(1000, 3, 1), KEY, VALUE)
    expected = (glimpse.output - 7).abs().squeeze(-1) < 1e-3
    assert torch.equal(expected.any(1), expected.all(1))
    assert abs(expected.float().mean() - 0.5) < 0.05


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_the_estimate_is_the_gradient_of_the_expected_reward(baseline):
    """Rewards 1, 2 and 4: the gradient of their mean under the weights is a_i (reward_i - mean)."""
    torch.manual_seed(0)
    scores = torch.tensor([[0.5], [-0.2], [0.1]], requires_grad=True)
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    glimpse = HardAttention(Dot(), soft=0).sample(torch.ones(100_000, 1, 1), scores, rewards)
    reinforce = Reinforce(reward_weight=1.0, entropy_weight=0.0)
    reinforce.baseline.fill_(baseline)
    (gradient,) = torch.autograd.grad(reinforce(glimpse.output.flatten(), glimpse), scores)
    weights = scores.detach().softmax(0)
    torch.testing.assert_close(-gradient, weights * (rewards - (weights * rewards).sum()), atol=0.01, rtol=0)


def test_the_loss_and_its_baseline_by_hand():
    """Two sequences of two steps: the baseline moves after the loss, and only in training mode."""
    glimpse = Glimpse(torch.empty(0), torch.tensor([[-1.0, -2.0], [-0.5, 0.0]]), torch.tensor([[0.3, 0.2], [0.4, 0.1]]))
    reward = torch.tensor([-2.0, -4.0])
    reinforce = Reinforce(reward_weight=0.5, entropy_weight=2.0)
    reinforce.baseline.fill_(-1.0)
    # 0.5 * (-1 * -3, -3 * -0.5) = 1.5, 0.75; entropies 2 * 0.5 each
    for mode, baseline in ((False, -1.0), (True, -1.2)):
        torch.testing.assert_close(reinforce.train(mode)(reward, glimpse), torch.tensor(-(1.125 + 1.0)))
        torch.testing.assert_close(reinforce.baseline, torch.tensor(baseline))


def test_entropy_spreads_the_weights():
    scores = torch.tensor([[0.0], [1.0]], requires_grad=True)
    glimpse = HardAttention(Dot(), soft=0).sample(QUERY, scores, VALUE)
    Reinforce(reward_weight=0.0, entropy_weight=1.0)(torch.zeros(()), glimpse).backward()
    assert scores.grad[0] < 0 < scores.grad[1]  # descent brings them together


def test_where_to_look_is_learned():
    """A reader that must name the marked one of four digits learns to look at it."""
    torch.manual_seed(0)
    read, attention, reinforce = nn.Linear(5, 5), HardAttention(Dot(), soft=0), Reinforce(reward_weight=1.0)
    query = nn.Parameter(torch.zeros(1, 6))
    optimiser = torch.optim.Adam([query, *read.parameters()], 0.05)
    for _ in range(100):
        digits, marked = torch.randint(5, (64, 4)), torch.randint(4, (64,))
        value = nn.functional.one_hot(digits, 5).float()
        key = torch.cat([value, nn.functional.one_hot(marked, 4).float()[..., None]], -1)
        glimpse = attention.sample(query.expand(64, 1, 6), key, value)
        target = digits[torch.arange(64), marked]
        losses = nn.functional.cross_entropy(read(glimpse.output[:, 0]), target, reduction="none")
        optimiser.zero_grad()
        (losses.mean() + reinforce(-losses, glimpse)).backward()
        optimiser.step()
    chosen = attention.weights(query.expand(64, 1, 6), key).argmax(-1).flatten()
    assert (chosen == marked).float().mean() > 0.95


def test_the_probability_of_expected_values_is_checked():
    with pytest.raises(VertebraError, match="soft is 2; it must lie between 0 and 1"):
        HardAttention(Dot(), soft=2)
