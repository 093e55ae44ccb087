"""Checkpoints of Detectron2's model zoo (`.pkl`), read without running code from the file.

They are pickles of `{"model": {name: array}, "__author__": ...}`. The format is that of Detectron2's
detectron2/checkpoint/detection_checkpoint.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vertebra.weights import arrays

FORMAT = arrays.Format(
    "a checkpoint of Detectron2's model zoo", "Detectron2", "save the model's state_dict alone, best as .safetensors"
)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, usually `.pkl`, by their names in it; raises as `paddle.read`."""
    return arrays.read(path, FORMAT, _tensors)


def _tensors(content: Any, size: int) -> dict[str, Tensor]:
    inner = content.get("model", content.get("blobs", content)) if type(content) is dict else content
    return arrays.named(inner, size)
