"""From a path, a folder or a Hugging Face Hub name to tensors, without ever running code from the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vertebra.errors import VertebraError, first_line, shown
from vertebra.weights import detectron2, paddle, pytorch
from vertebra.weights.card import Weights
from vertebra.weights.locate import locate

_NAME_LENGTH = 200
_PADDLE_OTHERS = {
    ".pdopt": "the state of Paddle's optimizer",
    ".pdmodel": "the program of a Paddle model exported for inference",
    ".pdiparams": "the parameters of a Paddle model exported for inference, in Paddle's own format",
}


def read(where: str | Path | Weights) -> tuple[dict[str, Tensor], dict[str, str], Path]:
    """Reads a checkpoint.

    Args:
        where: a `.safetensors` file, a PyTorch pickle (`.pth`, `.pt`, `.bin`, `.ckpt`, `.tar`), Paddle's parameters
            (`.pdparams`), a file of Detectron2's model zoo (`.pkl`), a folder that holds one of FILES, or a Hub name
            such as `timm/resnet50.a1_in1k`.

    Returns:
        The tensors by their names in the file, the file's own text metadata, and the path of the file read.

    Raises:
        VertebraError: if nothing is there, the file is damaged, or it holds Python objects other than tensors.
    """
    path = locate(where)
    state, metadata = _contents(path)
    for name, tensor in state.items():
        _check(name, tensor, path)
    return state, metadata, path


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pdparams":
        return paddle.read(path), {}
    if path.suffix == ".pkl":
        return detectron2.read(path), {}
    if path.suffix in _PADDLE_OTHERS:
        raise VertebraError(
            f"{path} holds {_PADDLE_OTHERS[path.suffix]}, not parameters by name; give the .pdparams file instead, "
            "which paddle.save writes of layer.state_dict()."
        )
    return pytorch.read(path), {}


def _check(name: str, tensor: Tensor, path: Path) -> None:
    """Raises if a tensor is of a kind that no parameter has, or its name is no name."""
    if not name.isprintable() or len(name) > _NAME_LENGTH:
        raise VertebraError(
            f"{path} has a tensor named {shown(name)}; names are printable and have at most {_NAME_LENGTH} characters."
        )
    kinds = {
        "without data": tensor.is_meta,
        "nested": tensor.is_nested,
        "quantized": tensor.is_quantized,
        "sparse": tensor.layout != torch.strided,
        "complex": tensor.is_complex(),
    }
    if wrong := next((kind for kind, is_one in kinds.items() if is_one), None):
        raise VertebraError(f"{path}: the tensor {name} is {wrong}; dense tensors of real numbers are read.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file, without its tensors.

    Raises:
        VertebraError: if it is damaged.
    """
    with _safetensors(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise VertebraError(f"{path} is not a whole safetensors file: {first_line(error)}") from error
