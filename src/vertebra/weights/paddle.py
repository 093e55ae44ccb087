"""Checkpoints of PaddlePaddle (`.pdparams`), read without Paddle and without running code from the file.

`paddle.save(layer.state_dict(), path)` pickles a dict from names to NumPy arrays. The format is that of Paddle's
python/paddle/framework/io.py and io_utils.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.weights import arrays
from vertebra.weights.rules import Fix, Rename

BIG = "UnpackBigParamInfor@@"  # which arrays of over 2^30 bytes are cut into slices, and their shapes
FORMAT = arrays.Format("a Paddle checkpoint", "paddle.save", "save layer.state_dict() alone with paddle.save")


def read(path: Path) -> dict[str, Tensor]:
    """Reads what `paddle.save` wrote of a layer's state.

    Args:
        path: a file, usually `.pdparams`.

    Returns:
        The tensors by their names in the file, of the types and shapes stored.

    Raises:
        VertebraError: if it is no such file, damaged, or holds other Python objects than arrays and plain values.
    """
    return arrays.read(path, FORMAT, _tensors)


def _tensors(content: Any, size: int) -> dict[str, Tensor]:
    """The arrays in `content` by name, slices put together again."""
    tensors = arrays.named(content, size)
    left = size
    for name, whole in content.get(BIG, {}).items() if tensors else ():
        slices = [tensors.pop(part) for part in whole["slices"]]
        left -= sum(part.nbytes for part in slices)
        if left < 0:
            raise ValueError("it unpacks to more than its own size")
        tensors[name] = torch.cat(slices).reshape(whole["OriginShape"])
    return tensors


# For the rule tables of Paddle's models.
STATISTICS = (Rename(r"\._mean$", ".running_mean"), Rename(r"\._variance$", ".running_var"))


def transposed(pattern: str) -> Fix:
    """The rule for the weights of linear layers, which Paddle keeps as [in, out]."""
    # What is no matrix is left for the check of shapes to complain of.
    return Fix(pattern, lambda x: x.t() if x.ndim == 2 else x, "[in, out] -> [out, in]")
