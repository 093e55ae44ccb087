"""An exported file to the task that it is of, whose outputs its engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, first_line, is_out_of_memory, shown
from vertebra.export import formats
from vertebra.export.formats import Run
from vertebra.files import expanded
from vertebra.tasks import Task
from vertebra.weights import description

Outputs = Callable[[Tensor, Sequence[tuple[int, int]] | None], tuple[Tensor, ...]]


def load(path: str | Path, *, device: torch.device | str | None = None) -> tuple[Task, dict[str, Any]]:
    """The task of a file that was exported, in eval mode, and its description.

    It has no weights of its own, so that it predicts and is evaluated, and nothing else.

    Args:
        device: `cpu`, `auto` or None; exported files run on the CPU.

    Raises:
        VertebraError: if the file is damaged, was not written by Vertebra, or needs a package that is not installed.
    """
    path = expanded(path)
    name = formats.of_file(path)
    assert name is not None
    module = formats.find(name)
    if module.READABLE is not True:
        raise VertebraError(f"{path} is not read: {module.READABLE}; give the checkpoint, or export another format.")
    if device is not None and str(device) not in ("cpu", "auto"):
        raise VertebraError(f"device is {str(device)!r}; exported files run on the CPU: leave it out.")
    if not path.is_file():
        raise VertebraError(f"{path} does not exist: there is no such file.")
    return opened(name, path)


def opened(name: str, path: Path) -> tuple[Task, dict[str, Any]]:
    """As `load`, of a file in the format `name` that is there."""
    module = formats.find(name)
    try:
        file = module.open(path)
    except Exception as error:  # each library raises its own
        if is_out_of_memory(error):
            raise
        raise VertebraError(f"{path} is not a whole {name} file: {first_line(error)}") from error
    if file.text is None:
        raise VertebraError(
            f"{path} was not exported by Vertebra, so its classes and its preprocessing are unknown: export the "
            "checkpoint with `vertebra export`."
        )
    about = description.parse(file.text, path)
    exported = about.get("export")
    if not isinstance(exported, dict) or exported.get("precision") not in module.PRECISIONS:
        raise VertebraError(f"{path} does not say in which precision its program computes: export it again.")
    stored = sum(part.stat().st_size for part in path.parent.glob(f"{escape(path.stem)}.*"))
    task = checkpoint.described(about, path, stored)
    size = exported.get("size")
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        raise VertebraError(f"{path} has the image size {shown(size)}, not a height and a width: export it again.")
    try:
        run = file.compile(exported["precision"])
    except Exception as error:
        raise VertebraError(f"{path} cannot be run by {name}: {first_line(error)}") from error
    install(task, run, path.name, tuple(size) if size else None)  # a service answers with it: without its folder
    return task, about


def install(task: Task, run: Run, name: str, size: tuple[int, int] | None) -> None:
    """Has an engine compute the outputs of a task on the device `meta`.

    Args:
        name: of the file, for messages.
        size: (height, width) of the images that it takes; None for any.
    """
    outputs = engine_outputs(task, run, name, size)
    task.outputs = outputs  # type: ignore[method-assign, assignment]
    if type(task).outputs is Task.outputs:  # else `forward` computes with `outputs`
        task.forward = outputs  # type: ignore[method-assign, assignment]

    def embed(images: Tensor) -> Tensor:
        raise VertebraError(f"{name} is exported, without pooled features: give the checkpoint.")

    task.embed = embed  # type: ignore[method-assign]


def engine_outputs(task: Task, run: Run, name: str, size: tuple[int, int] | None) -> Outputs:
    """`Task.outputs` by an engine; arguments as for `install`."""

    def computed(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        try:
            return run(inputs)
        except Exception as error:  # each library raises its own
            if is_out_of_memory(error):
                raise
            shape = " x ".join(map(str, inputs[0].shape))
            raise VertebraError(f"{name} fails on images of {shape}: {first_line(error)}") from error

    def outputs(images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> tuple[Tensor, ...]:
        whole = (images.shape[2], images.shape[3])
        if size is not None and whole != size:
            raise VertebraError(f"{name} takes images of {size[0]} x {size[1]} pixels, not {whole[0]} x {whole[1]}.")
        inputs = [np.ascontiguousarray(images.float().cpu().numpy())]
        if task.reads_sizes:
            inputs.append(np.array(sizes or [whole] * len(images), np.int64))
        if task.takes_batches:
            return tuple(map(torch.from_numpy, computed(inputs)))
        single = [computed([part[i : i + 1] for part in inputs]) for i in range(len(images))]
        return tuple(torch.from_numpy(np.concatenate(parts)) for parts in zip(*single, strict=True))

    return outputs
