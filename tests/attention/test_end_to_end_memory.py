import math

import pytest
import torch
from tests.attention.stories import VOCABULARY, both
from torch import nn

from vertebra.attention.end_to_end_memory import MemoryNetwork, position_encoding
from vertebra.errors import VertebraError

LOG3 = math.log(3)


def test_position_encoding_by_hand():
    """Two words and two channels; then one word, whose padding is cleared by its embedding."""
    encoding = position_encoding(torch.tensor([[7, 7], [7, 0]]), 2)
    assert encoding[0].tolist() == [[0.5, 0.5], [0.5, 1.0]]
    assert encoding[1, 0].tolist() == [0.5, 1.0]


def hand_made(hops: int, tying: str) -> MemoryNetwork:
    """Width 1, where a sentence of one word is its embedding; the last sentence has age 0."""
    network = MemoryNetwork(4, 1, hops, tying)
    network.words[0].weight.data = torch.tensor([[0.0], [1.0], [2.0], [LOG3]])
    network.words[1].weight.data = torch.tensor([[0.0], [5.0], [7.0], [0.5]])
    for ages, first in zip(network.ages, (0.0, 10.0)):
        ages.weight.data = first * torch.arange(1.0, 51.0)[:, None]
    return network


def test_one_hop_by_hand():
    """The question ln 3 meets sentences 1 and 2: weights 1/4 and 3/4; their outputs are 5 + 20 and 7 + 10."""
    network = hand_made(1, "adjacent")
    story, question = torch.tensor([[1], [2], [0]]), torch.tensor([3])
    torch.testing.assert_close(network.weights(story, question), torch.tensor([[0.25, 0.75, 0.0]]))
    state = LOG3 + 0.25 * 25 + 0.75 * 17
    torch.testing.assert_close(network(story, question), state * torch.tensor([0, 5, 7, 0.5]))


def test_two_layer_wise_hops_by_hand():
    """H = 0.5; the embedding of the question and the matrix of the answer are free."""
    network = hand_made(2, "layer-wise")
    network.question.weight.data = torch.tensor([[0.0], [0.0], [0.0], [LOG3]])
    network.transition.weight.data = torch.tensor([[0.5]])
    network.answer.weight.data = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    story, question = torch.tensor([[1], [2]]), torch.tensor([3])
    second = 0.5 * LOG3 + 0.25 * 25 + 0.75 * 17
    share = 1 / (1 + math.exp(second))
    third = 0.5 * second + share * 25 + (1 - share) * 17
    torch.testing.assert_close(network.weights(story, question)[1], torch.tensor([share, 1 - share]))
    torch.testing.assert_close(network(story, question), third * torch.tensor([0, 1.0, 2.0, 3.0]))


def test_adjacent_hops_share_tables_and_layer_wise_ones_do_too():
    assert len(MemoryNetwork(9, 4, 3).words) == 4
    assert len(MemoryNetwork(9, 4, 3, "layer-wise").words) == 2
    for tying in ("adjacent", "layer-wise"):
        network = MemoryNetwork(9, 4, 3, tying)
        network(torch.randint(1, 9, (2, 5, 3)), torch.randint(1, 9, (2, 3))).sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def test_padding_changes_nothing():
    torch.manual_seed(0)
    network = MemoryNetwork(9, 4, 2)
    story, question = torch.randint(1, 9, (2, 3, 2)), torch.randint(1, 9, (2, 2))
    padded = nn.functional.pad(story, (0, 3, 0, 2))
    torch.testing.assert_close(network(padded, nn.functional.pad(question, (0, 1))), network(story, question))


def train(hops: int, tying: str = "adjacent", steps: int = 800) -> list[float]:
    """Accuracy on new stories with one fact, and with two."""
    torch.manual_seed(0)
    network = MemoryNetwork(VOCABULARY, 32, hops, tying)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        story, question, answer = both(32)
        loss = nn.functional.cross_entropy(network(story, question), answer)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.02:
            break
    story, question, answer = both(500)
    with torch.no_grad():
        return [c.float().mean().item() for c in (network(story, question).argmax(-1) == answer).split(500)]


@pytest.mark.slow
def test_two_hops_answer_what_one_cannot():
    one, two = train(1, steps=400), train(2)
    assert min(two) > 0.98
    assert one[0] > 0.98
    assert one[1] < 0.4  # of four places


def test_a_story_longer_than_the_memory():
    with pytest.raises(VertebraError, match="The story has 6 sentences; the memory holds 5"):
        MemoryNetwork(9, 4, 1, memories=5)(torch.ones(6, 2, dtype=torch.long), torch.ones(2, dtype=torch.long))


def test_options_are_checked():
    with pytest.raises(VertebraError, match=r"tying is 'adjacnt'.*Did you mean"):
        MemoryNetwork(9, 4, 1, "adjacnt")
    with pytest.raises(VertebraError, match="hops is 0"):
        MemoryNetwork(9, 4, 0)
