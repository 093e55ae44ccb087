"""Which character of which word? Attention to words, and inside the word attended to most, attention to characters.

    a     = softmax_i(score(q, h_i))            c   = sum_i a_i h_i
    z     = argmax_i a_i
    b_n   = softmax_l(score'(d_n, g_zl))        c_n = sum_l b_nl g_zl

q: state of the word decoder; h_i: states of the source words; d_n: state of the character decoder at its step n, while
it spells one target word; g_il: state of character l of source word i.

Source: A Nested Attention Neural Hybrid Model for Grammatical Error Correction, arXiv:1707.02026, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vertebra.attention.softmax import masked_softmax


class NestedOutput(NamedTuple):
    """What `NestedAttention` returns."""

    words: Tensor
    """[..., Q, V], the context of the word decoder."""

    characters: Tensor
    """[..., Q, N, E], the context of the character decoder at its steps."""


class NestedAttention(nn.Module):
    """Attention to words, and to the characters of the word that has the largest weight.

    The choice of the word has no gradient; the weights of words learn from the word context.

    Source: arXiv:1707.02026, section 3.
    """

    def __init__(self, words: nn.Module, characters: nn.Module) -> None:
        """Both are scores: (query [..., Q, D], key [..., K, D']) -> [..., Q, K]."""
        super().__init__()
        self.words, self.characters = words, characters

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        steps: Tensor,
        characters: Tensor,
        mask: Tensor | None = None,
        character_mask: Tensor | None = None,
    ) -> NestedOutput:
        """Contexts of Q target words, spelled in N steps, from K source words of up to L characters.

        Args:
            query: [..., Q, D], states of the word decoder.
            key: [..., K, D'], the source words.
            value: [..., K, V], what the context of words consists of.
            steps: [..., Q, N, S], states of the character decoder.
            characters: [..., K, L, E], the characters of the source words.
            mask: bool, broadcastable to [..., Q, K]; True = may attend.
            character_mask: bool [..., K, L]; True = may attend. The context of a word without any is zero, as for
                the words of the vocabulary, of which the decoder needs no characters.
        """
        words, chosen, spelled = self._attend(query, key, steps, characters, mask, character_mask)
        return NestedOutput(words @ value, spelled @ chosen)

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        steps: Tensor,
        characters: Tensor,
        mask: Tensor | None = None,
        character_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Weights of words [..., Q, K], and of the characters of the chosen word [..., Q, N, L]; rows sum to 1."""
        words, _, spelled = self._attend(query, key, steps, characters, mask, character_mask)
        return words, spelled

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        steps: Tensor,
        characters: Tensor,
        mask: Tensor | None,
        character_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of words, characters of the chosen words [..., Q, L, E], and their weights."""
        words = masked_softmax(self.words(query, key), mask)
        word = words.argmax(-1, keepdim=True)  # [..., Q, 1]
        chosen = characters.take_along_dim(word[..., None], -3)
        valid = (words.amax(-1) > 0)[..., None, None]  # false where no word may be attended to
        if character_mask is not None:
            valid = valid & character_mask.take_along_dim(word, -2)[..., None, :]
        return words, chosen, masked_softmax(self.characters(steps, chosen), valid)


class HybridEmbedding(nn.Module):
    """Words of the vocabulary by a table, the others by their characters: [..., K] and [..., K, L] -> [..., K, C].

    Indices are integers, 0 for padding; the characters of a word precede its padding. Other words than those of the
    vocabulary have index 1.

    Source: arXiv:1707.02026, section 3, hybrid encoder.
    """

    def __init__(self, vocabulary: int, alphabet: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.characters = nn.Embedding(alphabet, width, padding_idx=0)
        self.encoder = nn.GRU(width, width, batch_first=True)

    def forward(self, words: Tensor, characters: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings, and the states of the characters [..., K, L, C], the keys of `NestedAttention`."""
        embedded = self.characters(characters)
        states = self.encoder(embedded.reshape(-1, *embedded.shape[-2:]))[0].view(embedded.shape)
        last = (characters != 0).sum(-1, keepdim=True).sub(1).clamp(min=0)[..., None]
        spelled = states.take_along_dim(last, -2).squeeze(-2)
        return torch.where((words == 1)[..., None], spelled, self.words(words)), states
