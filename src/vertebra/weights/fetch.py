"""From a path, a folder or a Hugging Face Hub name to tensors, without ever running code from the file."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vertebra.errors import VertebraError, first_line
from vertebra.files import expanded
from vertebra.weights import detectron2, paddle

FILES = ("best.safetensors", "model.safetensors", "pytorch_model.bin")
"""What is looked for in a folder or a Hub repository, best first."""
_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "state_dict_ema", "net", "module", "params")
_PADDLE_OTHERS = {
    ".pdopt": "the state of Paddle's optimizer",
    ".pdmodel": "the program of a Paddle model exported for inference",
    ".pdiparams": "the parameters of a Paddle model exported for inference, in Paddle's own format",
}
_HUB_NAME = re.compile(r"^(hf-hub:)?(?P<repository>[\w.-]+/[\w.-]+)$")


def read(where: str | Path) -> tuple[dict[str, Tensor], dict[str, str], Path]:
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
    path = _find(where)
    if path.suffix == ".safetensors":
        return *_read_safetensors(path), path
    if path.suffix == ".pdparams":
        return paddle.read(path), {}, path
    if path.suffix == ".pkl":
        return detectron2.read(path), {}, path
    if path.suffix in _PADDLE_OTHERS:
        raise VertebraError(
            f"{path} holds {_PADDLE_OTHERS[path.suffix]}, not parameters by name; give the .pdparams file instead, "
            "which paddle.save writes of layer.state_dict()."
        )
    return _read_pickle(path), {}, path


def _find(where: str | Path) -> Path:
    path = expanded(where)
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise VertebraError(f"{path} holds no checkpoint: looked for {', '.join(FILES)}.")
    if path.is_file():
        return path
    if match := _HUB_NAME.match(str(where)):
        return _download(match["repository"])
    raise VertebraError(f"{where} is neither a file, a folder nor a Hub name of the form owner/name.")


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError: no network, and not in the cache
            cached = [path for other in FILES if isinstance(path := try_to_load_from_cache(repository, other), str)]
            if cached:
                return Path(cached[0])
            raise VertebraError(
                f"{repository} is neither a path here nor in the cache, and the Hub does not answer: "
                "check the spelling and the network, or give the path of a downloaded file."
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise VertebraError(
                f"{repository} is neither a path here nor a readable Hub repository: {first_line(error)}"
            ) from error
    raise VertebraError(f"Hub repository {repository} holds none of {', '.join(FILES)}.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise VertebraError(f"{path} is not a whole safetensors file: {first_line(error)}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip archive, or a pickle of protocol 2 and later
        raise VertebraError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise VertebraError(
            f"{path} holds Python objects besides tensors, and unpickling those could run code, so it was not "
            "loaded: save its state_dict alone, best as .safetensors."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise VertebraError(f"{path} is not a whole PyTorch checkpoint: {first_line(error)}") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Goes through wrappers such as {"state_dict": ...} and the "module." prefix of data-parallel training."""
    while isinstance(content, dict):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            break
        content = inner
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not state:
        raise VertebraError(f"{path} holds no tensors by name; expected a state_dict.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state
