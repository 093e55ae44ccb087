"""Which facts, read in their order, change what is known? Gates over a sequence of facts, in several passes.

    z   = [c, m, q, c * q, c * m, |c - q|, |c - m|, c^T W q, c^T W m]
    g_t = sigmoid(W2 tanh(W1 z(c_t, m, q) + b1) + b2)
    h_t = g_t GRU(c_t, h_(t-1)) + (1 - g_t) h_(t-1),     e = h_T
    m  <- GRU'(e, m)

c_t: fact t; q: the question; m: the memory, q before the first pass; h: state of a pass, zero at its start; e: its
episode; *: product by element. Gates are in 0..1 and need not sum to 1, unlike the weights of a softmax.

Source: Ask Me Anything: Dynamic Memory Networks for Natural Language Processing, arXiv:1506.07285, section 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vertebra.errors import in_range


class EpisodicMemory(nn.Module):
    """Memory of a question after several passes over the facts: [B, N, C], [B, C] -> [B, C].

    Source: arXiv:1506.07285, section 2.3.
    """

    def __init__(self, width: int, passes: int) -> None:
        super().__init__()
        in_range("passes", passes, 1)
        self.passes = passes
        self.bilinear = nn.Linear(width, width, bias=False)
        self.gate = nn.Sequential(nn.Linear(7 * width + 2, width), nn.Tanh(), nn.Linear(width, 1), nn.Sigmoid())
        self.episode = nn.GRUCell(width, width)
        self.update = nn.GRUCell(width, width)

    def forward(self, facts: Tensor, question: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [B, N] is bool, True = may attend; the state of a pass skips the other facts."""
        return self._passes(facts, question, mask)[0]

    def weights(self, facts: Tensor, question: Tensor, mask: Tensor | None = None) -> Tensor:
        """The gates of the passes, in 0..1: [B, passes, N]."""
        return self._passes(facts, question, mask)[1]

    def _passes(self, facts: Tensor, question: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        memory, gates = question, []
        for _ in range(self.passes):
            gate = self.gate(self._features(facts, memory, question)).squeeze(-1)
            gates.append(gate if mask is None else gate.masked_fill(~mask, 0))
            state = torch.zeros_like(question)
            for fact, share in zip(facts.unbind(1), gates[-1].unbind(1), strict=True):
                state = torch.lerp(state, self.episode(fact, state), share[:, None])
            memory = self.update(state, memory)
        return memory, torch.stack(gates, 1)

    def _features(self, facts: Tensor, memory: Tensor, question: Tensor) -> Tensor:
        """z, in the order of the equation: [B, N, 7C + 2]."""
        m, q = memory[:, None].expand_as(facts), question[:, None].expand_as(facts)
        products = [(facts * self.bilinear(other)).sum(-1, keepdim=True) for other in (q, m)]
        return torch.cat([facts, m, q, facts * q, facts * m, (facts - q).abs(), (facts - m).abs(), *products], -1)
