"""The state to resume from, last.ckpt: as Lightning writes and reads it, and whether it is whole."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from vertebra.errors import VertebraError, first_line, shown
from vertebra.files import replacing
from vertebra.weights.pytorch import check_archive

NUMBER = int | float
"""The form of a number, see `misfit`."""


class SafeCheckpointIO(CheckpointIO):
    """Lightning's state for resuming: written whole or not at all, read without unpickling objects."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(path) as temporary:
            torch.save(dict(checkpoint), temporary)  # with a CRC-32 of every member of its archive

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def check_whole(path: Path) -> None:
    """Raises VertebraError if a state is not as it was written: cut off, unreadable, or with other bytes."""
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except OSError as error:
        raise VertebraError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # a damaged archive can raise anything
        raise damaged(path, first_line(error)) from error
    if wrong is not None:
        raise damaged(path, f"the checksum of {shown(wrong)} in it is wrong")


def read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The content of a state; its tensors stay in the file, with only their shapes read, if `mapped`.

    Raises:
        VertebraError: if it is damaged, or holds objects other than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise VertebraError(
            f"{path} holds Python objects that Vertebra did not write, and unpickling those could run code, so it "
            f"was not loaded: {_start_anew(path)}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path, first_line(error)) from error
    if reason := misfit(content, {"callbacks": {str: {str: object}}}):
        raise damaged(path, reason)
    state: dict[str, Any] = content
    return state


def load(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """What Lightning restores; arguments and errors as for `read`."""
    content = read(path, mapped=mapped)
    # Of ModelCheckpoint it holds the paths of files that are to be removed.
    content["callbacks"] = {k: v for k, v in content["callbacks"].items() if not k.startswith("ModelCheckpoint")}
    return content


def damaged(path: Path, reason: str) -> VertebraError:
    """The error of a state that cannot be resumed from."""
    return VertebraError(f"{path} is damaged ({reason.rstrip('.')}): {_start_anew(path)}")


def _start_anew(path: Path) -> str:
    return f"start a new run, with --weights={path.with_name('best.safetensors')} if that is whole."


def form_of(value: Any) -> Any:
    """The form that a value has, for `misfit`; of None, any."""
    if isinstance(value, dict):
        return {key: form_of(item) for key, item in value.items()}
    return value if isinstance(value, Tensor) else object if value is None else type(value)


def misfit(value: Any, form: Any, where: str = "the content") -> str:
    """Where and how a value does not have a form; empty if it has.

    Args:
        form: a type, of which an int is not negative; a tensor, for tensors of its shape; [form], for lists;
            {name: form, ...}, for mappings that have at least these keys; {type: form}, for mappings with keys of a
            type.
        where: the name of the value in the message.
    """
    if isinstance(form, Tensor):
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            return f"{where} is {shown(value, 40)}, not a tensor"
        if value.shape != form.shape or value.is_floating_point() != form.is_floating_point():
            return f"{where} is {list(value.shape)} {value.dtype}, not {list(form.shape)} {form.dtype}"
        return ""
    if isinstance(form, dict | list):
        if not isinstance(value, dict if isinstance(form, dict) else list | tuple):
            return f"{where} is {shown(value, 40)}, not a {'mapping' if isinstance(form, dict) else 'list'}"
        parts = _parts(value, form)
        if isinstance(form, dict) and (missing := [key for key, _ in parts if key not in value]):
            return f"{where} has no {shown(missing[0], 40)}"
        return next((text for key, part in parts if (text := misfit(value[key], part, f"{where}[{key!r}]"))), "")
    if (isinstance(value, bool) and form not in (bool, object)) or not isinstance(value, form):
        return f"{where} is {shown(value, 40)}, not {getattr(form, '__name__', 'a number')}"
    return f"{where} is {shown(value, 40)}, not a count" if form is int and not 0 <= value < 1 << 63 else ""


def _parts(value: Any, form: Any) -> list[tuple[Any, Any]]:
    """The keys of a mapping or list that a form is about, each with the form of its value."""
    if isinstance(form, list):
        return [(i, form[0]) for i in range(len(value))]
    kind = next(iter(form), None)
    if not isinstance(kind, type):
        return list(form.items())
    return [(key, form[kind] if isinstance(key, kind) else _Nothing) for key in value]


class _Nothing:
    """The form of the value of a key that should not be there."""
