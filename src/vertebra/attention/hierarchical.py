"""Which sentences matter in a document, and which words in a sentence? Attention at both levels.

    u_it = tanh(W h_it + b)        a_it = softmax_t(u_it . u_w)      s_i = sum_t a_it h_it
    u_i  = tanh(W' h_i + b')       a_i  = softmax_i(u_i . u_s)       v   = sum_i a_i h_i

h_it: states of a bidirectional GRU over the words t of sentence i; h_i: of another over the sentence vectors s_i;
u_w, u_s: learned context vectors; v: the document vector.

Source: Hierarchical Attention Networks for Document Classification (Yang et al., NAACL 2016), equations 5 to 10.
"""

from __future__ import annotations

from torch import Tensor, nn

from vertebra.attention.structured import StructuredAttention
from vertebra.nn.recurrent import Bidirectional


class HierarchicalAttention(nn.Module):
    """Embedding of a document by its words, then by its sentences: [..., S, W, C] -> [..., 2 * hidden].

    Source: Yang et al., NAACL 2016, section 2.2.
    """

    def __init__(self, width: int, hidden: int) -> None:
        """`hidden` is the width of the GRUs in one direction; the attention is twice as wide."""
        super().__init__()
        self.word_encoder = Bidirectional(width, hidden)
        self.word_attention = StructuredAttention(2 * hidden, 2 * hidden, hops=1, bias=True)
        self.sentence_encoder = Bidirectional(2 * hidden, hidden)
        self.sentence_attention = StructuredAttention(2 * hidden, 2 * hidden, hops=1, bias=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` [..., S, W] is bool, True = word; words precede the padding, sentences the empty ones."""
        return self.read(x, mask)[0]

    def weights(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the words in their sentence [..., S, W], and of the sentences [..., S]; rows sum to 1.

        Rows of sentences without words are zero.
        """
        _, words, sentences = self.read(x, mask)
        return words, sentences

    def read(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` and `weights` return."""
        states = self.word_encoder(x, mask)  # [..., S, W, 2 * hidden]
        words = self.word_attention.weights(states, mask[..., None, :])  # [..., S, 1, W]
        valid = mask.any(-1)
        states = self.sentence_encoder((words @ states).squeeze(-2), valid)
        sentences = self.sentence_attention.weights(states, valid[..., None, :])  # [..., 1, S]
        return (sentences @ states).squeeze(-2), words.squeeze(-2), sentences.squeeze(-2)
