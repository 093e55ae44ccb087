import math

import torch
from torch import Tensor, nn

from vertebra.attention.hierarchical import HierarchicalAttention


class Same(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


def test_two_sentences_by_hand():
    """Without encoders: words of weight 1/4 and 3/4 in the first sentence, then 3/4 and 1/4 for the sentences."""
    network = HierarchicalAttention(2, 1)
    network.word_encoder = network.sentence_encoder = Same()
    for level, context in ((network.word_attention, 2.0), (network.sentence_attention, -2.0)):
        level.hidden.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        level.hidden.bias.data = torch.zeros(2)
        level.hops.weight.data = torch.tensor([[context * math.log(3), 0.0]])
    half = math.atanh(0.5)
    # The first channel of the second sentence is tanh^-1(0) = 0 apart from the mean of the first, which is replaced.
    x = torch.tensor([[[0.0, 4.0], [half, 8.0]], [[math.atanh(math.tanh(0.75 * half) + 0.5), 3.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    words, sentences = network.weights(x, mask)
    torch.testing.assert_close(words, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    torch.testing.assert_close(sentences, torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(network(x, mask)[1], torch.tensor(0.75 * 7 + 0.25 * 3))


def test_the_bias_and_the_width_of_the_encoders():
    network = HierarchicalAttention(3, 4)
    assert network.word_attention.hidden.bias is not None
    assert network(torch.randn(2, 5, 6, 3), torch.ones(2, 5, 6, dtype=torch.bool)).shape == (2, 8)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    network = HierarchicalAttention(3, 4)
    x, mask = torch.randn(2, 3, 3), torch.tensor([[True, True, True], [True, False, False]])
    padded = torch.full((4, 5, 3), 9.0)
    padded[:2, :3] = x
    wide = torch.zeros(4, 5, dtype=torch.bool)
    wide[:2, :3] = mask
    torch.testing.assert_close(network(padded, wide), network(x, mask))
    words, sentences = network.weights(padded, wide)
    torch.testing.assert_close(words.sum(-1), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert not sentences[2:].any()
