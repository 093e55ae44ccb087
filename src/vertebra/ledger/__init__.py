"""The ledger: exact counts of every backbone, and outputs of the original implementations to compare with.

A reference is two files, NAME.json and NAME.npz. The JSON has
- `backbone`: our public name; `source`: the library whose names the tensors have; `made_by`: the program that computed
  the outputs;
- `state`: names and shapes of the original's tensors; `gain` and `norm`: arguments of `fabricate_state`, which makes
  weights from names alone;
- `input`: shape and seed of `fabricated_input`;
- `outputs`: by the original's name of a tensor, its shape, its standard deviation, and the array of the NPZ file that
  holds every `step`-th element.
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
    """Multiply-adds for one image of `size`."""
    size: int
    """Side of that image in pixels: the default of the backbone, mostly 224."""
    levels: list[list[int]]
    """Stride and channels of each feature map."""
    weights: dict[str, dict[str, Any]]
    """Known checkpoints: hub, licence, top1, size."""
    top1: float | None
    """ImageNet-1k top-1 in percent as published, or of the best known checkpoint."""
    top1_source: str
    """Who measured it."""


def entries() -> list[Entry]:
    """Every backbone's row, family by family; read from a file, so that listing them needs no torch."""
    return [Entry(**row) for row in json.loads((FOLDER / "facts.json").read_text())]
