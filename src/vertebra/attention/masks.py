"""Masks: bool tensors, True = may attend, broadcastable to [..., Q, K]. Two are combined by `&`."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int | None = None, device: torch.device | None = None) -> Tensor:
    """Attention to a query's position and those before it: [Q, K].

    Without `keys` there are as many as queries. Otherwise the queries are the last positions of the keys, as when a
    decoder appends to the keys of earlier steps.

    Source: arXiv:1706.03762, section 3.2.3.
    """
    keys = queries if keys is None else keys
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """Attention to the first `lengths` of `size` keys: [...] int -> [..., 1, size]."""
    return torch.arange(size, device=lengths.device) < lengths[..., None, None]


def sliding_mask(size: int, radius: int, causal: bool = False, device: torch.device | None = None) -> Tensor:
    """Attention to keys at most `radius` positions away, and not after the query if `causal`: [size, size].

    Source: Longformer, arXiv:2004.05150, section 3.1.
    """
    place = torch.arange(size, device=device)
    return is_near(place[:, None] - place, radius, causal)


def is_near(distance: Tensor, radius: int, causal: bool = False) -> Tensor:
    """Whether sliding attention reaches a key; `distance` [...] is the query's position minus the key's: [...] bool."""
    return (distance >= (0 if causal else -radius)) & (distance <= radius)
