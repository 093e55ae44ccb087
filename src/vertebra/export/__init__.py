"""Exported models: programs that other engines run, each with a certificate of how they differ from the model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vertebra
from vertebra import kinds
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, in_range, one_of
from vertebra.export import formats
from vertebra.export.loading import load, opened
from vertebra.files import expanded, unsaved
from vertebra.tasks import Task

if TYPE_CHECKING:
    from vertebra.export.certificate import Certificate

__all__ = ["export", "is_exported", "load", "open_model"]


def open_model(
    where: Any, *, device: Any = None, head: str | None = None, model: Mapping[str, Any] | None = None
) -> tuple[Task, dict[str, Any]]:
    """The task in a checkpoint or an exported file, in eval mode, and its description.

    Args:
        where: a checkpoint as `checkpoint.load` takes it, or an exported file.
        device: where it runs, as `vertebra.load` takes it.
        head: of a checkpoint of several heads, the one whose model it is.
        model: options of the model, as `vertebra.load` takes them.

    Raises:
        VertebraError: if it cannot be read, or an option is refused.
    """
    if not is_exported(where):
        return checkpoint.load(where, device=device, head=head, model=model)
    if model:
        raise VertebraError(f"{where} is exported with the options of its model: export it again with others.")
    if head is not None:
        raise VertebraError(f"head is {head!r}; {where} is exported, as the model of one head: leave it out.")
    return load(where, device=device)


def is_exported(where: Any) -> bool:
    """Whether a path is that of an exported file, by its ending."""
    return isinstance(where, str | Path) and formats.of_file(where) is not None


def export(
    task: Task,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    format: str | None = None,
    precision: str = "fp32",
    data: str | None = None,
    split: str = "val",
    min_agreement: float | None = None,
    max_drop: float = 0.01,
    calibration_images: int | None = None,
) -> Certificate:
    """Writes a task's model as a program that other engines run, with all that is needed to use it.

    Before, its predictions are compared with the model's.

    Args:
        task: in eval mode, on the CPU; best folded (`nn.fold`).
        path: of the file, with the ending of its format.
        about: further entries of its description, such as the checkpoint's metrics, threshold and data.
        format: `onnx`, `openvino` or `pt2`; by the ending of `path` if None.
        precision: of the program: `fp32`, or `int8` by post-training quantisation; OpenVINO has `bf16` and `fp16` too.
        data: of the images to compare on, as `vertebra.evaluate` takes it; if None the data that the model was
            validated on, else drawn images.
        split: of the data.
        min_agreement: least share of predictions that agree, 0..1; if None as `certificate.least` has it.
        max_drop: largest drop of the task's first metric, where the images have ground truth.
        calibration_images: of `int8`, number of images of the training part of the data on which the ranges of values
            are measured; 300 if None.

    Raises:
        VertebraError: if the model cannot be exported, the file cannot be written, or its predictions differ by more
            than is allowed; no file is left then.
    """
    from vertebra.export import calibration, certificate  # with what evaluation needs, which prediction does not
    from vertebra.export.program import traced

    if not kinds.find(task.kind).reads_images:
        raise VertebraError(f"a model for {task.task_name} reads no images, and those that do can be exported.")
    if task.decodes_with_weights:
        raise VertebraError(
            f"a model for {task.task_name} searches its answers with weights of its own, which no program holds: it "
            "cannot be exported."
        )
    path = expanded(path)
    format = format or formats.of_file(path)
    if format is None:
        endings = ", ".join(f"{formats.find(name).SUFFIX} ({name})" for name in formats.names())
        raise VertebraError(f"{path} has no ending of a format: name the format, or end it with {endings}.")
    module = formats.find(format)
    one_of(f"precision of {format}", precision, module.PRECISIONS)
    if path.suffix.lower() != module.SUFFIX:
        raise VertebraError(f"{path} is to hold {format}: it must end with {module.SUFFIX}.")
    in_range("min_agreement", min_agreement, 0, 1)
    in_range("max_drop", max_drop, 0)
    in_range("calibration_images", calibration_images, 1)
    if calibration_images is not None and precision != "int8":
        raise VertebraError(f"calibration_images is for precision int8, and precision is {precision}: leave it out.")
    images = certificate.examples(task, about or {}, data, split, certificate.NUM_IMAGES[precision])
    entry: dict[str, Any] = {"format": format, "precision": precision}
    if precision == "int8":
        calibrating = calibration.images(task, about or {}, data, calibration_images or calibration.NUM_IMAGES)
    program, entry["size"] = traced(task)
    model = module.convert(program, precision)
    if precision == "int8":
        model = module.quantized(model, calibrating, program)
    described = {**(about or {}), "version": vertebra.__version__, **task.describe()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export", dir=path.parent) as folder:
            draft = Path(folder, path.name)
            module.save(model, json.dumps({**described, "export": entry}), draft)
            compared = certificate.compare(task, opened(format, draft)[0], images)
            if precision == "int8":
                unreadable = tuple(sorted(calibrating.unreadable))
                compared = replace(compared, calibrated=calibrating.count - len(unreadable), unreadable=unreadable)
            if problem := compared.problem(
                certificate.least(compared, precision, min_agreement), max_drop, certificate.DIFFERENCE[precision]
            ):
                raise VertebraError(f"{path} is not written: {problem}.")
            entry["certificate"] = asdict(compared)
            module.save(model, json.dumps({**described, "export": entry}), draft)
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == module.SUFFIX):
                os.replace(part, path.with_name(part.name))  # the file that is opened comes last
    except OSError as error:
        raise unsaved(path, error) from error
    return compared
