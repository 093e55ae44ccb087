"""What of a task is exported: a program of fixed operations, for batches and images of any size where possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError, first_line
from vertebra.export.formats import quiet
from vertebra.tasks import Task

EXAMPLE_SIZE = (512, 640)
"""(height, width) that a program for images of any size is traced with: at stride 128, maps of several cells that are
not square, so that no size is taken for a constant."""

OTHER_SIZE = (288, 416)
"""Another one, with which it is tried: odd multiples of 32, which are rounded at higher strides."""


class Program(nn.Module):
    """`Task.outputs` of tensors: images [B, C, H, W] float32, normalised, and where the task reads them `sizes` [B, 2]
    int64, the (height, width) of each image without its padding."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
        return self.task.outputs(images, sizes)


def example(task: Task, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Inputs of the program for images of (height, width) `size`."""
    count = 2 if task.takes_batches else 1
    images = torch.zeros(count, task.preprocess.channels, *size)
    return (images, torch.tensor([size] * count)) if task.reads_sizes else (images,)


def traced(task: Task) -> tuple[torch.export.ExportedProgram, tuple[int, int] | None]:
    """The program of a task in eval mode, and the (height, width) of its images; None for any.

    Raises:
        VertebraError: if it cannot be traced.
    """
    fixed = None if task.preprocess.resize == "shortest" else task.preprocess.size
    attempts: list[tuple[int, int] | None] = [None] if task.any_size else []
    attempts += [fixed] if fixed is not None else []
    problem: Exception | None = None
    for size in attempts:
        try:
            program = _traced(task, size)
            for other in filter(None, (OTHER_SIZE, fixed)) if size is None else ():
                with torch.no_grad():  # raises where the size has become a constant, or is below the least
                    program.module()(*example(task, other))
            return program, size
        except Exception as error:  # of the tracer, or of any operation; a fixed size may still do
            problem = error
    raise VertebraError(f"the model cannot be exported: {first_line(problem or ValueError())}") from problem


def _traced(task: Task, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    batch = {0: dynamic} if task.takes_batches else {}
    sides = {} if size else {2: dynamic, 3: dynamic}
    arguments = example(task, size or EXAMPLE_SIZE)
    shapes: tuple[Any, ...] = ({**batch, **sides}, batch)[: len(arguments)]
    with quiet(), torch.no_grad():
        return torch.export.export(Program(task), arguments, dynamic_shapes=shapes, strict=False)
