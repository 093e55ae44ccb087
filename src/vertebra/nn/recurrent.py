"""Recurrent layers over padded sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bidirectional(nn.Module):
    """A recurrent layer in both directions: [..., N, C], mask [..., N] -> [..., N, 2 * hidden], zero at the padding.

    The backward layer starts at the last element of the sequence, not at the padding.

    Source: Bahdanau et al., arXiv:1409.0473, section 3.2.
    """

    def __init__(self, width: int, hidden: int, cell: type[nn.GRU] | type[nn.LSTM] = nn.GRU) -> None:
        super().__init__()
        self.forward_cell = cell(width, hidden, batch_first=True)
        self.backward_cell = cell(width, hidden, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is bool, True = element; the elements of a sequence precede its padding."""
        flat = x.reshape(-1, *x.shape[-2:])
        onward = self.forward_cell(flat)[0]
        if mask is None:
            backward = self.backward_cell(flat.flip(1))[0].flip(1)
            return torch.cat([onward, backward], -1).view(*x.shape[:-1], -1)
        valid = mask.expand(x.shape[:-1]).reshape(-1, x.shape[-2], 1)
        place = torch.arange(x.shape[-2], device=x.device)[:, None]
        length = valid.sum(1, keepdim=True)
        mirrored = torch.where(place < length, length - 1 - place, place)
        backward = self.backward_cell(flat.take_along_dim(mirrored, 1))[0].take_along_dim(mirrored, 1)
        return torch.cat([onward, backward], -1).masked_fill(~valid, 0).view(*x.shape[:-1], -1)
