"""OpenVINO's intermediate representation, run by OpenVINO: an .xml file, and a .bin file with the weights beside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vertebra.export.formats import Opened, Run
from vertebra.export.formats import onnx as onnx_format

if TYPE_CHECKING:
    from vertebra.export.calibration import Images

SUFFIX = ".xml"
EXTRA = "openvino"
PACKAGES = ("openvino", "onnx", "onnxscript")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
READABLE = True
KEY = "vertebra"
"""Of the runtime information."""
COMPUTED = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}
"""What a precision is computed in: OpenVINO's CPU plugin has no float16 of its own on most processors, so that fp16 is
the precision of the weights in the file; what is int8 says so itself, and the rest is float32."""


def convert(program: torch.export.ExportedProgram, precision: str) -> Any:
    """An `openvino.Model`, by way of ONNX, of whose operators OpenVINO knows most."""
    import openvino

    return openvino.Core().read_model(onnx_format.convert(program, precision).SerializeToString()), precision


def quantized(model: Any, images: Images, program: torch.export.ExportedProgram) -> Any:
    from openvino._offline_transformations import apply_moc_transformations

    from vertebra.export import calibration

    graph, precision = model
    # Sequences such as x * sigmoid(x) become one operation first, else the convolution before cannot contain them.
    # `openvino.convert_model` does it too, and reports its use over the network.
    apply_moc_transformations(graph, cf=False)
    return calibration.quantized(graph, [given.any_name for given in graph.inputs], images, program), precision


def save(model: Any, text: str, path: Path) -> None:
    import openvino

    graph, precision = model
    graph.set_rt_info(text, KEY)
    openvino.save_model(graph, str(path), compress_to_fp16=precision == "fp16")


def open(path: Path) -> Opened:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))

    def compile(precision: str) -> Run:
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": COMPUTED[precision],  # else the processor decides
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        of_thread = threading.local()

        def run(inputs: Sequence[Any]) -> list[Any]:
            if not hasattr(of_thread, "request"):
                of_thread.request = compiled.create_infer_request()
            return [value.copy() for value in of_thread.request.infer(list(inputs), share_inputs=True).values()]

        return run

    return Opened(model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None, compile)
