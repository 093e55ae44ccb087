"""PyTorch's own archive of an exported program, for programs in Python and C++ that run it with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vertebra.export.formats import Opened, Run

SUFFIX = ".pt2"
EXTRA = "onnx"
PACKAGES = ()
PRECISIONS = ("fp32",)
READABLE = "torch runs code out of such a file when it loads it"
KEY = "vertebra.json"
"""Of the archive's extra files."""


def convert(program: torch.export.ExportedProgram, precision: str) -> torch.export.ExportedProgram:
    return program


def save(model: torch.export.ExportedProgram, text: str, path: Path) -> None:
    torch.export.save(model, str(path), extra_files={KEY: text})


def open(path: Path) -> Opened:
    """Only of a file that this process has written: torch unpickles parts of it."""
    extra = {KEY: ""}
    program = torch.export.load(str(path), extra_files=extra).module()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [value.numpy() for value in program(*map(torch.from_numpy, inputs))]

    def compile(precision: str) -> Run:
        return run  # type: ignore[return-value]

    return Opened(extra[KEY] or None, compile)
