import math

import torch

from vertebra.attention.nested import HybridEmbedding, NestedAttention
from vertebra.attention.scores import Dot

LOG3 = math.log(3)


def test_two_words_by_hand():
    """The second word has weight 3/4; of its three characters, the last is padding."""
    attention = NestedAttention(Dot(), Dot())
    query, key, value = torch.tensor([[1.0]]), torch.tensor([[0.0], [LOG3]]), torch.tensor([[4.0], [8.0]])
    steps = torch.tensor([[[1.0], [0.0]]])
    characters = torch.tensor([[[5.0], [6.0], [7.0]], [[0.0], [LOG3], [9.0]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    words, spelled = attention.weights(query, key, steps, characters, character_mask=mask)
    torch.testing.assert_close(words, torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(spelled, torch.tensor([[[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]]))
    output = attention(query, key, value, steps, characters, character_mask=mask)
    torch.testing.assert_close(output.words, torch.tensor([[7.0]]))
    torch.testing.assert_close(output.characters, torch.tensor([[[0.75 * LOG3], [0.5 * LOG3]]]))
    other = attention.weights(query, key, steps, characters, torch.tensor([[True, False]]), mask)
    torch.testing.assert_close(other[1][0, 0], torch.tensor([5.0, 6.0, 7.0]).softmax(0))


def test_a_word_without_characters_has_no_context_of_characters():
    torch.manual_seed(0)
    attention = NestedAttention(Dot(), Dot())
    query, key, steps, characters = torch.ones(1, 2), torch.eye(2), torch.ones(1, 3, 4), torch.randn(2, 5, 4)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0] = False  # the word that is chosen
    output = attention(query, key, key, steps, characters, character_mask=mask)
    assert output.words.any()
    assert not output.characters.any()


def test_a_word_out_of_the_vocabulary_is_its_last_state():
    torch.manual_seed(0)
    embed = HybridEmbedding(10, 7, 4)
    words, characters = torch.tensor([[3, 1, 0]]), torch.tensor([[[1, 2, 0], [4, 5, 0], [0, 0, 0]]])
    embedding, states = embed(words, characters)
    torch.testing.assert_close(embedding[0, 0], embed.words.weight[3])
    torch.testing.assert_close(embedding[0, 1], embed.encoder(embed.characters(characters[0, 1, :2]))[0][1])
    torch.testing.assert_close(embedding[0, 1], states[0, 1, 1])
    assert not embedding[0, 2].any()
