"""Which sentences of a story answer a question, when one leads to the next? Several hops over a memory of sentences.

    m_i = sum_j l_j A x_ij + T_A(i)        c_i = sum_j l_j C x_ij + T_C(i)        u_1 = sum_j l_j B q_j
    p_k = softmax_i(u_k . m_i)             o_k = sum_i p_ki c_i
    u_(k+1) = u_k + o_k  (adjacent)        u_(k+1) = H u_k + o_k  (layer-wise)
    answer = softmax(W u_(K+1))
    l_kj = (1 - j / J) - (k / d) (1 - 2 j / J)

x_ij: word j of sentence i, of J words; q_j: word j of the question; A, B, C: embeddings of width d; T: embeddings of
the age of a sentence, 0 for the last; l: position encoding of word j in channel k, both from 1; K: hops.
Adjacent tying: A of a hop is C of the one before, B is A of the first, W is C of the last transposed. Layer-wise: all
hops share A, C and H.

Source: End-To-End Memory Networks, arXiv:1503.08895, sections 2 and 4.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vertebra.attention.softmax import masked_softmax
from vertebra.errors import VertebraError, in_range, one_of

TYINGS = ("adjacent", "layer-wise")


class MemoryNetwork(nn.Module):
    """Logits of a one-word answer from a story and a question: [..., S, W], [..., W'] int -> [..., vocabulary].

    Indices are of words, 0 for padding. Words precede the padding of a sentence, sentences the empty ones of a story.

    Source: arXiv:1503.08895, sections 2 and 4.1.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        hops: int,
        tying: Literal["adjacent", "layer-wise"] = "adjacent",
        memories: int = 50,
        deviation: float = 0.1,
    ) -> None:
        """`width` is d; `memories` is the longest story, in sentences; `deviation` is that of the initial embeddings,
        by default the paper's (section 4.2)."""
        super().__init__()
        one_of("tying", tying, TYINGS)
        in_range("hops", hops, 1)
        adjacent = tying == "adjacent"
        count = hops + 1 if adjacent else 2
        self.hops, self.memories = hops, memories
        self.words = nn.ModuleList(_embedding(vocabulary, width, deviation) for _ in range(count))
        self.ages = nn.ModuleList(_embedding(memories, width, deviation, padding=None) for _ in range(count))
        if not adjacent:
            self.question = _embedding(vocabulary, width, deviation)
            self.transition = nn.Linear(width, width, bias=False)
            self.answer = nn.Linear(width, vocabulary, bias=False)
        self.adjacent = adjacent

    def forward(self, story: Tensor, question: Tensor) -> Tensor:
        """Raises VertebraError if the story is longer than the memory."""
        state, _ = self.read(story, question)
        return self.logits(state)

    def logits(self, state: Tensor) -> Tensor:
        """Of the words of the vocabulary: the state after all hops [..., width] -> [..., vocabulary]."""
        logits: Tensor = state @ self.words[-1].get_parameter("weight").T if self.adjacent else self.answer(state)
        return logits

    def weights(self, story: Tensor, question: Tensor) -> Tensor:
        """Attention weights of the hops, rows summing to 1: [..., hops, S]; empty sentences have none."""
        return self.read(story, question)[1]

    def read(self, story: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """The state after all hops [..., width], and the weights of the hops.

        Raises VertebraError if the story is longer than the memory.
        """
        if story.shape[-2] > self.memories:
            raise VertebraError(
                f"The story has {story.shape[-2]} sentences; the memory holds {self.memories}. Leave out the earliest."
            )
        present = (story != 0).any(-1)
        age = present.flip(-1).cumsum(-1).flip(-1).sub(1).clamp(min=0)
        memory = [_encode(story, words) + ages(age) for words, ages in zip(self.words, self.ages, strict=True)]
        state = _encode(question, self.words[0] if self.adjacent else self.question)
        weights = []
        for hop in range(self.hops):
            read, written = memory[hop : hop + 2] if self.adjacent else memory
            weights.append(masked_softmax((read @ state[..., None]).squeeze(-1), present))
            output = (weights[-1][..., None, :] @ written).squeeze(-2)
            state = (state if self.adjacent else self.transition(state)) + output
        return state, torch.stack(weights, -2)


def position_encoding(words: Tensor, width: int) -> Tensor:
    """l, the weights of the words in the sum that encodes a sentence: [..., W] int, 0 for padding -> [..., W, width].

    Source: arXiv:1503.08895, section 4.1.
    """
    count = (words != 0).sum(-1)[..., None, None].clamp(min=1)
    place = torch.arange(1, words.shape[-1] + 1, device=words.device)[:, None] / count
    channel = torch.arange(1, width + 1, device=words.device) / width
    return (1 - place) - channel * (1 - 2 * place)


def _encode(words: Tensor, embedding: nn.Module) -> Tensor:
    """Sentences [..., W] -> [..., width]; the embedding of padding is zero."""
    vectors = embedding(words)
    return (position_encoding(words, vectors.shape[-1]).to(vectors.dtype) * vectors).sum(-2)


def _embedding(count: int, width: int, deviation: float, padding: int | None = 0) -> nn.Embedding:
    """Normal; that of padding stays zero."""
    embedding = nn.Embedding(count, width, padding_idx=padding)
    nn.init.normal_(embedding.weight.data[0 if padding is None else 1 :], std=deviation)
    return embedding
