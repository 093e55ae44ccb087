"""`vertebra export CHECKPOINT --format=onnx`: the model as a program for other engines, with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra.cli.parsing import parse, parser
from vertebra.cli.tables import console
from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded

if TYPE_CHECKING:
    from vertebra.export.certificate import Certificate

CHECKPOINT = "safetensors"
"""The format that is not a program but a checkpoint."""


@dataclass
class ExportData:
    path: str = ""
    """Images that the two are compared on, in any form that `vertebra train` takes; default: those that the model was
    validated on, where they are still there, else drawn ones."""
    split: Literal["train", "val", "test"] = "val"
    """The split to compare on."""


@dataclass
class Options:
    head: str | None = None
    """Of a checkpoint of several heads, the one that is taken out: as a program, or with --format=safetensors as a
    checkpoint of its own."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model by which predictions are made of its outputs, in place of those that it was trained with,
    such as --model.nms_threshold=0.6 of a detector."""
    format: Literal["onnx", "openvino", "pt2", "safetensors"] | None = None
    """`onnx`, `openvino`, `pt2` (torch.export), or with --head `safetensors`; default: by the ending of --save."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Number format: fp32; int8, by post-training quantisation; or, of OpenVINO, bf16 (of the computation) or fp16 (of
    the weights in the file)."""
    save: str | None = None
    """File to write: .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2; default: beside the checkpoint."""
    data: ExportData = field(default_factory=ExportData)
    """Data to compare on"""
    min_agreement: float | None = None
    """Least share of predictions that agree, 0..1; default: 0.99, 0.95 in half precision, 0.9 in int8 where the images
    have no ground truth, else 0."""
    max_drop: float = 0.01
    """Largest drop of the task's first metric, where the images have ground truth; 0.01 is one point."""
    calibration_images: int | None = None
    """With --precision=int8, images of the training part of the data on which the ranges of values are measured;
    default: 300."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("export", "Writes a trained model as a program for other engines, and compares the two.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    if not (options.format or options.save):
        raise VertebraError("there is no format: give --format=onnx, openvino or pt2, or --save with its ending.")

    if options.format == CHECKPOINT or (not options.format and options.save.endswith(f".{CHECKPOINT}")):
        _take_out(options)
        return

    from vertebra.export import formats
    from vertebra.predict import Predictor

    path = expanded(options.save) if options.save else _beside(options.checkpoint, formats.find(options.format).SUFFIX)
    predictor = Predictor(options.checkpoint, device="cpu", head=options.head, model=options.model)
    certificate = predictor.export(
        path,
        format=options.format,
        precision=options.precision,
        data=options.data.path or None,
        split=options.data.split,
        min_agreement=options.min_agreement,
        max_drop=options.max_drop,
        calibration_images=options.calibration_images,
    )
    _print(certificate)
    print(escaped(f"saved {path}; use it as a checkpoint: vertebra predict {path} IMAGE"))


def _take_out(options: Any) -> None:
    """Saves one head of a checkpoint as a checkpoint of its own."""
    if options.head is None:
        raise VertebraError(
            f"a checkpoint is {CHECKPOINT} already: --format={CHECKPOINT} is for one head, with --head=NAME."
        )
    usual = Options()
    names = ("precision", "min_agreement", "max_drop", "model")
    if given := [name for name in names if getattr(options, name) != vars(usual)[name]]:
        raise VertebraError(f"--{given[0]} is for programs; a head is saved as it was trained: leave it out.")

    from vertebra.engine import checkpoint
    from vertebra.weights.locate import locate

    task, about = checkpoint.load(options.checkpoint, device="cpu", head=options.head)
    path = (
        expanded(options.save) if options.save else locate(options.checkpoint).with_name(f"{options.head}.{CHECKPOINT}")
    )
    if path.suffix != f".{CHECKPOINT}":
        raise VertebraError(f"{path} is to hold a checkpoint: it must end with .{CHECKPOINT}.")
    if path.exists() and path.samefile(locate(options.checkpoint)):
        raise VertebraError(f"{path} holds all heads: choose another file to save {options.head!r} to.")
    checkpoint.save(task, path, **{key: about[key] for key in ("metrics", "epoch", "data") if key in about})
    print(escaped(f"saved {path}; use it as a checkpoint: vertebra predict {path} IMAGE"))


def _beside(checkpoint: str, suffix: str) -> Path:
    """The path of the exported file where none is given."""
    from vertebra.weights.locate import locate

    return locate(checkpoint).with_suffix(suffix)


def _print(certificate: Certificate) -> None:
    table = Table("certificate", box=SIMPLE_HEAD)
    table.add_column("model", justify="right")
    table.add_column("exported", justify="right")
    for name, (before, after) in certificate.metrics.items():
        table.add_row(name, f"{before:.4f}", f"{after:.4f}")
    table.add_row("predictions that agree", "", f"{certificate.agreement:.2%}")
    table.add_row("largest difference of raw outputs", "", f"{max(certificate.differences):.2g}")
    table.add_row("images", "", str(certificate.images))
    console().print(table)
    print(escaped(f"compared on: {certificate.source}"))
    if certificate.calibrated:
        print(f"calibrated on {certificate.calibrated} images")
    for problem in certificate.unreadable:
        print(escaped(f"not calibrated on: {problem}"))
