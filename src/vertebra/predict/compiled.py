"""The outputs of a folded model by torch.compile, which needs a C++ compiler on a CPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch

from vertebra.errors import VertebraError, first_line
from vertebra.tasks import Task


def install(task: Task, *, frozen: bool) -> None:
    """Has compiled code compute the outputs of a task, from the first prediction of a size on.

    Args:
        frozen: whether the weights are constants of the code, which lets the compiler lay them out anew. That helps
            convolutions; shifted windows became 15 times slower.

    Raises:
        VertebraError: if there is no compiler.
    """
    if task.device.type == "cpu":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
        if shutil.which(compiler) is None:
            raise VertebraError(
                f"it needs a C++ compiler, and {compiler} is not installed: install it, or name one in the environment "
                "variable CXX."
            )
    name = "forward" if type(task).outputs is Task.outputs else "outputs"  # `outputs` calls `forward` in any task
    compiled = torch.compile(getattr(task, name), options={"freezing": frozen})
    setattr(task, name, _named(compiled))


def _named(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """With the compiler's errors as sentences."""

    def outputs(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise VertebraError(f"the model cannot be compiled: {first_line(error)}") from error

    return outputs
