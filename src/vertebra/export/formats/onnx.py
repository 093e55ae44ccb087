"""ONNX, run by ONNX Runtime: one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vertebra.errors import VertebraError
from vertebra.export.formats import Opened, Run, quiet

if TYPE_CHECKING:
    from vertebra.export.calibration import Images

SUFFIX = ".onnx"
EXTRA = "onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PRECISIONS = ("fp32", "int8")
READABLE = True
KEY = "vertebra"
"""Of the metadata."""
MAX_BYTES = 2**31 - 1
"""Size of a file of protocol buffers."""


def convert(program: torch.export.ExportedProgram, precision: str) -> Any:
    """An `onnx.ModelProto` with inputs `images` and, where the task reads them, `sizes`; outputs are numbered."""
    inputs = ["images", "sizes"][: len(program.graph_signature.user_inputs)]
    outputs = [f"output_{i}" for i in range(len(program.graph_signature.user_outputs))]
    with quiet():
        exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
        assert exported is not None
        return exported.model_proto


def quantized(model: Any, images: Images, program: torch.export.ExportedProgram) -> Any:
    from vertebra.export import calibration

    return calibration.quantized(model, [given.name for given in model.graph.input], images, program)


def save(model: Any, text: str, path: Path) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=text)
    size = model.ByteSize()
    if size > MAX_BYTES:
        raise VertebraError(f"the model has {size:,} bytes; ONNX files have {MAX_BYTES:,} at most: choose openvino.")
    path.write_bytes(model.SerializeToString())


def open(path: Path) -> Opened:
    """Read by ONNX Runtime, which loads no library and no tensor outside of the file's folder on behalf of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which takes cores from other threads
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def compile(precision: str) -> Run:
        return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))

    return Opened(session.get_modelmeta().custom_metadata_map.get(KEY), compile)
