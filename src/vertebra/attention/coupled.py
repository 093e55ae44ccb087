"""Which words are aspects and which are opinions, when either is evidence of the other? Two coupled attentions.

In layer k, for m one of aspect and opinion, and n the other:

    b_i  = tanh([h_i^T G^m u^m_k ; h_i^T D^m u^n_k])
    r_i  = GRU^m(b_i, r_(i-1))
    a    = softmax_i(v^m . r_i)
    u^m_(k+1) = tanh(V^m u^m_k) + sum_i a_i h_i

h_i: [C] a word; u: [C] the prototypes, learned in the first layer; G, D: [K, C, C] tensors, so that b_i and r_i have
2K entries. Layers share their parameters. A word is classified by the sum of its r_i over the layers.

Source: Coupled Multi-Layer Attentions for Co-Extraction of Aspect and Opinion Terms (Wang et al., AAAI 2017). Here the
GRU is torch's, which multiplies by the reset gate after the matrix product, and starts from zeros. The authors' code
has no tanh around b_i.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.attention.softmax import masked_softmax


class CoupledAttention(nn.Module):
    """Features of every word for both extractions: [..., N, C] -> [..., 2, N, 2 * tensors], aspects first.

    Source: Wang et al., AAAI 2017.
    """

    def __init__(self, width: int, tensors: int = 20, layers: int = 2) -> None:
        """`tensors` is K, the slices of the tensor operators G and D."""
        super().__init__()
        self.layers = layers
        self.prototypes = nn.Parameter(torch.empty(2, width).uniform_(-0.2, 0.2))
        # [aspect and opinion, prototype of the same and of the other, K, C, C]
        self.tensors = nn.Parameter(torch.empty(2, 2, tensors, width, width).uniform_(-0.2, 0.2))
        self.grus = nn.ModuleList(nn.GRU(2 * tensors, 2 * tensors, batch_first=True) for _ in range(2))
        self.scores = nn.Parameter(torch.empty(2, 2 * tensors).uniform_(-0.2, 0.2))
        self.transitions = nn.Parameter(torch.empty(2, width, width).uniform_(-0.2, 0.2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [..., N] is bool, True = word; words precede the padding, whose features have no meaning."""
        return self._layers(x, mask)[0]

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights of the layers, rows summing to 1: [..., N, C] -> [..., layers, 2, N], aspects first."""
        return self._layers(x, mask)[1]

    def _layers(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, *x.shape[-2:])
        valid = None if mask is None else mask.expand(x.shape[:-1]).reshape(-1, 1, x.shape[-2])
        prototypes = self.prototypes.expand(flat.shape[0], -1, -1)  # [B, 2, C]
        states, weights = [], []
        for _ in range(self.layers):
            both = torch.stack([prototypes, prototypes.flip(1)], 2)  # [B, 2, same and other, C]
            operators = torch.einsum("mskcd,bmsd->bmskc", self.tensors, both).flatten(2, 3)  # [B, 2, 2K, C]
            composed = torch.einsum("bnc,bmkc->mbnk", flat, operators).tanh()
            recurrent = [gru(b)[0] for gru, b in zip(self.grus, composed, strict=True)]
            states.append(torch.stack(recurrent, 1))  # [B, 2, N, 2K]
            weights.append(masked_softmax(torch.einsum("bmnk,mk->bmn", states[-1], self.scores), valid))
            prototypes = torch.einsum("mcd,bmd->bmc", self.transitions, prototypes).tanh() + weights[-1] @ flat
        total = torch.stack(states).sum(0)
        leading = x.shape[:-2]
        return total.view(*leading, *total.shape[1:]), torch.stack(weights, 1).view(*leading, self.layers, 2, -1)
