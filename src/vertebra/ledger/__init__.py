"""The ledger: exact counts of every backbone, and outputs of the original implementations to compare with.

A reference is two files, NAME.json and NAME.npz. The JSON names the original's tensors and shapes, from which weights
are made by name alone, and the shape of the input, made from a seed; the arrays are what the original answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One backbone's row."""

    name: str
    family: str
    parameters: int
    """With a linear classifier of 1000 classes."""
    macs: int
    """Multiply-adds for one picture of `size`."""
    size: int
    """Side of that picture in pixels: the backbone's own, mostly 224."""
    levels: list[list[int]]
    """Stride and channels of each feature map."""
    weights: dict[str, dict[str, Any]]
    """Known checkpoints: hub, licence, top1, size."""
    top1: float | None
    """ImageNet-1k top-1 in percent as published, or of the best known checkpoint."""
    top1_source: str
    """Who has measured that."""


def entries() -> list[Entry]:
    """Every backbone's row, family by family; read from a file, so that listing needs no torch."""
    return [Entry(**row) for row in json.loads((FOLDER / "facts.json").read_text())]
