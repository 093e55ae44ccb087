"""Modules that a file fills: built without memory, to see whether what it says of them is true before anything is
allocated, and built without the random values that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from vertebra.errors import VertebraError, first_line

Module = TypeVar("Module", bound=nn.Module)

_CALLS = 10_000
"""Tensor operations in which a model is built whose file has few tensors, such as a backbone's for a detector."""
_CALLS_PER_TENSOR = 100
"""A model takes eight for each of its tensors."""
_BYTES = 1 << 30
"""Size of a model that any file justifies: parts that it does not have are new."""
_TIMES = 16
"""Size of a model by that of the tensors in its file; indices and masks are not stored."""


_DRAWN = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_")
"""Initialisations, which have nothing to fill; torch takes two seconds to import what they do on the device `meta`."""


class _Undrawn(TorchFunctionMode):
    """A context in which parameters are zeros where they would be drawn at random, and nothing is drawn on `meta`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _DRAWN:
            tensor = args[0] if args else (kwargs or {})["tensor"]
            if tensor.is_meta:
                return tensor
            if isinstance(tensor, nn.Parameter):  # what is drawn again until it is within bounds is not one
                tensor.detach().zero_()
                return tensor
        return function(*args, **(kwargs or {}))


class _Limited(_Undrawn):
    """A context in which a number of tensor operations are allowed."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise VertebraError("its options make a model of far more parts than its tensors fill.")
        return super().__torch_function__(function, types, args, kwargs)


def on_meta(build: Callable[[], Module]) -> Module:
    """A module on the device `meta`, whose tensors have shapes and no data; `build` makes it."""
    with torch.device("meta"), _Undrawn():
        return build()


def without_parameters(build: Callable[[], Module]) -> Module:
    """A module whose parameters alone are on the device `meta`: other tensors have their values; `build` makes it."""

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        with _Undrawn():
            return build()
    finally:
        hook.remove()


def build_on_meta(build: Callable[[], Module], state: Mapping[str, Tensor], path: object) -> Module:
    """As `on_meta`, for a module whose options are from a file.

    Args:
        build: makes it.
        state: tensors of the file that the options of the module are from; they bound its size.
        path: the file, for messages.

    Raises:
        VertebraError: if it cannot be built, or is far larger than the tensors.
    """
    try:
        with torch.device("meta"), _Limited(_CALLS + _CALLS_PER_TENSOR * len(state)):
            module = build()
        size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        stored = sum(tensor.nbytes for tensor in state.values())
        if size > _BYTES + _TIMES * stored:
            raise VertebraError(f"its options make a model of {size:,} bytes; its tensors have {stored:,}.")
        return module
    except VertebraError as error:
        raise VertebraError(f"{path}: {error}") from error
    except Exception as error:  # options that do not fit each other can raise anything
        raise VertebraError(f"{path}: its options make no model: {first_line(error)}") from error


def build_to_fill(build: Callable[[], Module], empty: nn.Module, new: Collection[str]) -> Module:
    """A module that is filled next; drawing the random values that are then replaced would take most of the time.

    Args:
        build: makes it.
        empty: the same module on the device `meta`.
        new: names of its tensors that will not be filled. If a parameter is among them, all parameters are drawn, so
            that a seed gives it the same values whatever else is filled.
    """
    if any(name in new for name, _ in empty.named_parameters()):
        return build()
    with _Undrawn():
        return build()
