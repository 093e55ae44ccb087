"""Weights and inputs that depend on names and seeds alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GAINS = ("gamma", "alpha", "ls1", "ls2", "layer_scale", "lambda")
_DERIVED = ("offset", "attn_mask", "relative_position_index", "relative_coords_table", "position_ids")


def fabricate(name: str, shape: Sequence[int], gain: float = 1.0, norm: float = 1.0) -> Tensor:
    """A float32 tensor that depends on its name and shape alone, scaled so that signals neither vanish nor explode.

    Args:
        gain: factor on weights of two or more dimensions, whose standard deviation is otherwise 1 / sqrt(fan in).
        norm: factor on weights of one dimension, and its square on running variances: a small one makes the eps
            of batch norm visible.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    last = name.rpartition(".")[2]
    if last == "running_var":
        value = norm**2 * (1 + 0.2 * np.abs(noise))
    elif last.startswith(_GAINS):
        value = 0.5 + 0.1 * noise
    elif (last.endswith("weight") or last == "scale") and len(shape) >= 2:
        value = np.multiply(noise, gain, out=noise)  # in place: these are the large ones
        value *= math.sqrt(1 / max(1, math.prod(shape[1:])))
    elif (last.endswith("weight") and len(shape) == 1) or last == "scale":
        value = norm * (1 + 0.1 * noise)
    else:
        value = 0.1 * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32).reshape(tuple(shape)))


def fabricate_state(rows: Sequence[Sequence[Any]], gain: Any = 1.0, norm: float = 1.0) -> dict[str, Tensor]:
    """A state dict from rows (name, shape[, dtype[, derived]]); derived buffers are left out.

    `gain` may be {prefix of the name: factor}; the longest prefix that fits is used.
    """
    state: dict[str, Tensor] = {}
    for name, shape, *rest in rows:
        last = name.rpartition(".")[2]
        if last == "num_batches_tracked":
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif last not in _DERIVED and not (len(rest) > 1 and rest[1]):
            factor = gain[max((p for p in gain if name.startswith(p)), key=len)] if isinstance(gain, dict) else gain
            state[name] = fabricate(name, shape, factor, norm)
    return state


def fabricated_input(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    return torch.from_numpy(noise.astype(np.float32))
