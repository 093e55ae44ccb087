"""Checkpoints that `torch.save` writes, in its zip archives and in its older form, read without running code from them.

The unpickler is PyTorch's with `weights_only`. It builds what a file says, however large; here that is bounded by the
file's own size.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.errors import VertebraError, first_line, shown

_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "state_dict_ema", "net", "module", "params")
_SHARED = 2
"""How often the bytes of a file may occur in its tensors: transposed views of tied weights are stored once."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, out of wrappers such as {"state_dict": ...} and without the prefix "module." of
    data-parallel training.

    Raises:
        VertebraError: if it is no such file, damaged, takes more memory than its own size, or holds Python objects
            other than tensors and plain values.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip archive, or a pickle of protocol 2 and later
        raise VertebraError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save.")
    check_archive(path)
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


def check_archive(path: str | Path) -> None:
    """Checks, before anything is unpacked, that the members of a zip archive take no more than the archive itself.

    `torch.save` does not compress. Of a file that is no zip archive nothing is checked.

    Raises:
        VertebraError: if they would take more, or the archive is damaged.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
        except Exception as error:  # a damaged directory can raise anything
            raise VertebraError(f"{path} is not a whole PyTorch checkpoint: {first_line(error)}") from error
        size = file.seek(0, 2)
    if unpacked > size:
        raise VertebraError(
            f"{path} has {size:,} bytes that unpack to {unpacked:,}, and was not loaded: torch.save does not compress."
        )


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    seen: set[int] = set()
    while isinstance(content, dict) and id(content) not in seen:
        seen.add(id(content))
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise VertebraError(f"{path} holds no tensors by name; expected a state_dict.")
    if other := [key for key in tensors if not isinstance(key, str)]:
        raise VertebraError(f"{path} has a tensor under the key {shown(other[0])}; expected a state_dict, by name.")
    # Tensors as such: a file can give the others attributes, of any name.
    state = {str(name): torch.detach(tensor) for name, tensor in tensors.items()}
    _check_size(state, path)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _check_size(state: dict[str, Tensor], path: Path) -> None:
    """A tensor of stride 0 shows few bytes as many, which the first computation with it would allocate."""
    dense = {k: t for k, t in state.items() if t.layout == torch.strided and not (t.is_meta or t.is_nested)}
    distinct = {(t.data_ptr(), t.shape, t.stride()): t.nbytes for t in dense.values()}
    size, taken = path.stat().st_size, sum(distinct.values())
    if taken > _SHARED * size:
        largest = max(dense, key=lambda name: dense[name].nbytes)
        raise VertebraError(
            f"{path} has {size:,} bytes, but its tensors take {taken:,}: {shown(largest)} has the shape "
            f"{shown(list(dense[largest].shape))}."
        )
