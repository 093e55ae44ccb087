import math

import pytest
import torch
from tests.attention.stories import VOCABULARY, both
from torch import nn

from vertebra.attention.dynamic_memory import EpisodicMemory
from vertebra.errors import VertebraError


def test_features_by_hand():
    memory = EpisodicMemory(1, 1)
    memory.bilinear.weight.data = torch.tensor([[0.5]])
    features = memory._features(torch.tensor([[[2.0]]]), torch.tensor([[3.0]]), torch.tensor([[5.0]]))
    assert features.flatten().tolist() == [2, 3, 5, 10, 6, 3, 1, 5, 3]


def hand_made(passes: int) -> EpisodicMemory:
    """Gates are sigmoid(|c - m|), and GRU cells return the tanh of their input."""
    memory = EpisodicMemory(1, passes)
    memory.gate[0] = nn.Linear(9, 1, bias=False)
    memory.gate[0].weight.data = torch.tensor([[0, 0, 0, 0, 0, 0, 1.0, 0, 0]])
    memory.gate[1] = nn.Identity()
    memory.gate[2].weight.data, memory.gate[2].bias.data = torch.ones(1, 1), torch.zeros(1)
    for cell in (memory.episode, memory.update):
        cell.weight_ih.data, cell.weight_hh.data = torch.tensor([[0.0], [0.0], [1.0]]), torch.zeros(3, 1)
        cell.bias_ih.data, cell.bias_hh.data = torch.tensor([0.0, -1e4, 0.0]), torch.zeros(3)
    return memory


def test_two_passes_by_hand():
    facts, question = (1.0, -0.5), 0.25
    m, gates = question, []
    for _ in range(2):
        first, second = (1 / (1 + math.exp(-abs(c - m))) for c in facts)
        h = first * math.tanh(facts[0])
        h = second * math.tanh(facts[1]) + (1 - second) * h
        m = math.tanh(h)
        gates.append([first, second])
    memory, x, q = hand_made(2), torch.tensor(facts).view(1, 2, 1), torch.tensor([[question]])
    torch.testing.assert_close(memory(x, q), torch.tensor([[m]]))
    torch.testing.assert_close(memory.weights(x, q), torch.tensor([gates]))


def test_masked_facts_are_skipped():
    torch.manual_seed(0)
    memory = EpisodicMemory(4, 2)
    facts, question = torch.randn(2, 3, 4), torch.randn(2, 4)
    mask = torch.tensor([[True, False, True]] * 2)
    torch.testing.assert_close(memory(facts, question, mask), memory(facts[:, [0, 2]], question))
    assert not memory.weights(facts, question, mask)[..., 1].any()


class Reader(nn.Module):
    """Sums of embeddings as facts, and an answer from memory and question."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 32)
        self.memory = EpisodicMemory(32, passes)
        self.answer = nn.Linear(64, VOCABULARY)

    def forward(self, story, question):
        facts, question = self.words(story).sum(2), self.words(question).sum(1)
        answer = self.answer(torch.cat([self.memory(facts, question), question], -1))
        return answer, self.memory.weights(facts, question)


def train(passes: int) -> list[float]:
    """Accuracy on new stories with one fact, and with two; gates learn the supporting facts, as in section 2.5."""
    torch.manual_seed(0)
    reader = Reader(passes)
    optimiser = torch.optim.Adam(reader.parameters(), 0.01)
    for _ in range(100):
        story, question, answer = both(32)
        logits, gates = reader(story, question)
        last = (story == answer[:, None, None]).any(-1)
        first = torch.where(question < 5, last, (story == question[:, None]).any(-1))
        facts = torch.stack([first, last][-passes:], 1).float()
        loss = nn.functional.cross_entropy(logits, answer) + 4 * nn.functional.binary_cross_entropy(gates, facts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    story, question, answer = both(500)
    with torch.no_grad():
        return [c.float().mean().item() for c in (reader(story, question)[0].argmax(-1) == answer).split(500)]


@pytest.mark.slow
def test_two_passes_answer_what_one_cannot():
    assert min(train(2)) > 0.95
    assert train(1)[1] < 0.4  # of four places


def test_options_are_checked():
    with pytest.raises(VertebraError, match="passes is 0"):
        EpisodicMemory(4, 0)
