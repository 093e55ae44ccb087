"""Post-training quantisation to int8 by NNCF, which measures the range of every tensor on calibration images."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra import kinds
from vertebra.data.catalogue import Sample
from vertebra.data.geometry import read_example
from vertebra.engine.evaluate import select
from vertebra.errors import VertebraError, first_line, is_out_of_memory
from vertebra.export import certificate
from vertebra.export.formats import quiet
from vertebra.images import UnreadableImage
from vertebra.tasks import Task

NUM_IMAGES = 300
"""Images that the ranges are measured on."""
ATTENTION = (torch.ops.aten.scaled_dot_product_attention.default, torch.ops.aten.softmax.int)
"""Operations of a program whose inputs and outputs NNCF leaves in floating point, if it knows of a transformer."""


class Images:
    """Calibration images as inputs of a program, read as they are needed and each time again."""

    def __init__(self, task: Task, samples: Sequence[Sample]) -> None:
        self.task = task
        self.samples = samples
        self.count = len(samples)
        self.unreadable: set[str] = set()
        """What is wrong with those that cannot be read."""

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for sample in self.samples:
            try:
                example = read_example(sample, self.task.preprocess.channels, kinds.find(self.task.kind).fields)
            except UnreadableImage as error:
                self.unreadable.add(str(error))
                continue
            batch, frames = certificate.prepared(self.task, example.image, example.region)
            inputs: list[Tensor] = [batch]
            if self.task.reads_sizes:
                inputs.append(torch.tensor([frame.resized for frame in frames]))
            yield [tensor.numpy() for tensor in inputs]


def images(task: Task, about: Mapping[str, Any], data: str | None, count: int) -> Images:
    """Images of the training part of `data`, spread over it; of the data that the model was trained on if None.

    Raises:
        VertebraError: if NNCF is not installed, there is no such data, or it does not fit the model.
    """
    if importlib.util.find_spec("nncf") is None:
        raise VertebraError("precision int8 needs nncf, which is not installed: pip install 'vertebra[int8]'")
    try:
        samples = select(task, about, data, split="train").samples
    except VertebraError as error:
        if data is not None:
            raise
        raise VertebraError(f"precision int8 needs images to calibrate on: give --data.path. ({error})") from error
    step = max(1, len(samples) // count)
    return Images(task, samples[::step][:count])


def quantized(model: Any, names: Sequence[str], images: Images, program: torch.export.ExportedProgram) -> Any:
    """An `onnx.ModelProto` or `openvino.Model` with int8 weights and activations.

    Args:
        model: in float32.
        names: of its inputs.
        program: what it was converted from.

    Raises:
        VertebraError: if none of the images can be read, or NNCF cannot quantise the model.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use over the network
    import nncf

    transformer = any(node.target in ATTENTION for node in program.graph.nodes)
    items = nncf.Dataset(images, lambda inputs: dict(zip(names, inputs, strict=True)))
    try:
        with quiet():
            result = nncf.quantize(
                model,
                items,
                subset_size=images.count,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            )
    except Exception as error:  # of NNCF or of the engine that it runs the model with
        if is_out_of_memory(error):
            raise
        if len(images.unreadable) == images.count:
            raise VertebraError(f"none of the calibration images can be read: {min(images.unreadable)}") from error
        raise VertebraError(f"the model cannot be quantised: {first_line(error)}") from error
    return result
