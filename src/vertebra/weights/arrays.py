"""Pickles of NumPy arrays by name, read without running code from the file.

Only what builds such arrays may be called, and even that is replaced by stand-ins of this module, which check what they
are given. So what a hostile file can do is to be refused; it can neither run code nor ask for much more memory than its
own size.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from vertebra.errors import VertebraError, first_line, shown

_KINDS = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1"))
# Never needed for arrays: references to what lies outside the file, instances without a call, and sets and mappings
# made at once, whose keys could be anything: to hash tuples in tuples can take for ever, or crash the process.
_FOREIGN = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "DICT", "EMPTY_SET", "ADDITEMS", "FROZENSET")
)
_AXES = 64
"""As many as an array can have in NumPy."""


@dataclass(frozen=True)
class Format:
    """Who writes such a file, for the sentences that refuse one."""

    name: str
    writer: str
    """The function that writes it, and of what."""
    advice: str
    """What to do instead if it holds more."""


def read(path: Path, format: Format, tensors: Callable[[Any, int], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Reads a pickle.

    Args:
        tensors: makes tensors of the content, arrays being stand-ins, and of the file's size in bytes; see `named`.

    Raises:
        VertebraError: if it is no such file, damaged, or holds other Python objects than arrays and plain values.
    """
    with path.open("rb") as file:
        if file.read(1) != b"\x80":  # a pickle of protocol 2 and later
            raise VertebraError(f"{path} is not {format.name}: it does not begin as what {format.writer} writes.")
        file.seek(0)
        try:
            _scan(file)
            size = file.tell()
            file.seek(0)
            state = tensors(_Unpickler(file, size).load(), size)
        except _Refused as error:
            raise VertebraError(
                f"{path} holds {error}, which weights do not need, and unpickling it could run code, so it was not "
                f"loaded: {format.advice}."
            ) from error
        except Exception as error:  # a damaged pickle can raise anything
            whole = format.name.replace("a ", "a whole ", 1)
            raise VertebraError(f"{path} is not {whole}: {first_line(error)}; fetch or save it again.") from error
    if not state:
        raise VertebraError(f"{path} holds no tensors by name; expected what {format.writer} writes.")
    return state


def named(content: Any, size: int) -> dict[str, Tensor]:
    """The arrays in the mapping `content` by name; other values, and pairs but of a name and an array, are left out.

    Raises:
        ValueError: if they take more than `size` bytes.
    """
    if type(content) is not dict:
        return {}
    arrays: dict[str, _Array] = {}
    for name, value in content.items():
        if type(value) is tuple and len(value) == 2 and isinstance(value[0], str):
            value = value[1]
        if isinstance(name, str) and isinstance(value, _Array):
            arrays[name] = value
    distinct = {id(array): array for array in arrays.values()}
    if sum(len(array.raw) for array in distinct.values()) > size:
        raise ValueError("it unpacks to more than its own size")
    made = {key: array.tensor() for key, array in distinct.items()}
    return {name: made[id(array)] for name, array in arrays.items()}


class _Refused(Exception):
    """What the file holds that is not allowed in it."""


def _scan(file: BinaryIO) -> None:
    """Refuses, before anything is built, instructions that arrays do not need and that could do harm."""
    for code, argument, position in pickletools.genops(file):
        if code.name in _FOREIGN:
            raise _Refused(f"a pickle instruction {code.name}")
        # The memo is an array as long as its greatest index, which a few bytes could make 2^32.
        if code.name in ("PUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
            raise ValueError("an index of its memo is beyond its size")


class _Array:
    """Stands in for numpy.ndarray: keeps the parts that a pickled array gives its `__setstate__`."""

    shape: tuple[int, ...] = ()
    kind = "f4"
    fortran = False
    raw: bytes | str = b""

    def __setstate__(self, state: Any) -> None:
        self.shape, dtype, self.fortran, raw = state[-4:]  # before them, a version
        if not isinstance(dtype, _Dtype):
            raise TypeError("an array's type is not one")
        if type(raw) not in (bytes, str):
            raise _Refused("an array of Python objects")
        self.kind, self.raw = dtype.kind, raw
        if not (
            isinstance(self.shape, tuple)
            and len(self.shape) <= _AXES
            and all(type(n) is int and 0 <= n < 2**63 for n in self.shape)
        ):
            raise TypeError("an array's shape is not one")
        if len(self.raw) != math.prod(self.shape) * np.dtype(self.kind).itemsize:
            raise ValueError("an array is not as long as its shape says")

    def tensor(self) -> Tensor:
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        array = np.frombuffer(raw, self.kind).reshape(self.shape, order="F" if self.fortran else "C")
        native = array.astype(array.dtype.newbyteorder("="), order="C")  # a copy, which may be written to
        if self.kind[1:] == "u2":  # bfloat16, which NumPy lacks: Paddle gives it out as uint16
            return torch.from_numpy(native.view("i2")).view(torch.bfloat16)
        return torch.from_numpy(native)


class _Dtype:
    """Stands in for numpy.dtype: a type of numbers, whose byte order `__setstate__` gives."""

    kind = "<f4"

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if code not in _KINDS:
            raise _Refused(f"an array of the type {shown(code, 20)}")
        self.kind = f"<{code}"

    def __setstate__(self, state: Any) -> None:
        _, order, base, names, fields, *_ = state
        if (base, names, fields) != (None, None, None):
            raise _Refused("an array of records")
        self.kind = (">" if order in (">", b">") else "<") + self.kind[1:]


class _StandIns:
    """Methods in the place of the functions that a pickled array calls.

    Methods and not functions, whose attributes a pickle could set for the whole process; and not of the unpickler,
    which would then refer to itself and keep the whole file in memory until garbage is collected.
    """

    def __init__(self, size: int) -> None:
        self.left = size  # bytes that may still be made or copied; a file cannot hold more than its size

    def charge(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("it unpacks to more than its own size")

    def encode(self, text: Any, encoding: Any) -> bytes:
        """Stands in for `_codecs.encode`, as which protocol 2 pickles bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("a call of _codecs.encode for other than bytes")
        self.charge(len(text))
        return text.encode("latin1")

    def ordered(self, pairs: Any = ()) -> dict:
        """Stands in for `collections.OrderedDict`, which Python 2 calls with a list of pairs."""
        if type(pairs) not in (list, tuple) or not all(
            type(pair) in (list, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
        ):
            raise _Refused("a mapping of other than names")
        self.charge(len(pairs))
        return dict(pairs)

    def nothing(self) -> bytes:
        """Stands in for `bytes`, as which protocol 2 pickles those of an empty array."""
        return b""

    def pair(self, items: Any) -> tuple:
        """Stands in for `tuple`, as which Paddle 2.1 and later pickles a tensor: (name, array)."""
        if not (type(items) is tuple and len(items) == 2):
            raise _Refused("a call of tuple for other than a name and an array")
        return items

    def reconstruct(self, *_: Any) -> _Array:
        return _Array()

    def scalar(self, dtype: Any, raw: Any) -> _Array:
        array = _Array()
        array.__setstate__(((), dtype, False, raw))
        return array

    def frombuffer(self, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
        """Stands in for `numpy._core.numeric._frombuffer`, as which protocol 5 pickles contiguous arrays."""
        if axes is not None or type(raw) not in (bytes, bytearray):
            raise _Refused("an array of another kind")
        self.charge(len(raw))
        array = _Array()
        array.__setstate__((shape, dtype, order == "F", bytes(raw)))
        return array


class _Unpickler(pickle._Unpickler):  # the one whose steps can be replaced
    """Finds stand-ins for what builds arrays, and nothing else; the keys of its mappings are names."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, encoding="latin1")  # bytes that Python 2 wrote become strings
        stand_ins = _StandIns(size)
        self.allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): stand_ins.encode,
            ("collections", "OrderedDict"): stand_ins.ordered,
        }
        for core in ("core", "_core"):  # before and since NumPy 2
            self.allowed[f"numpy.{core}.multiarray", "_reconstruct"] = stand_ins.reconstruct
            self.allowed[f"numpy.{core}.multiarray", "scalar"] = stand_ins.scalar
            self.allowed[f"numpy.{core}.numeric", "_frombuffer"] = stand_ins.frombuffer
        for builtins in ("__builtin__", "builtins"):  # in protocol 2, and since
            self.allowed[builtins, "tuple"] = stand_ins.pair
            self.allowed[builtins, "bytes"] = stand_ins.nothing

    def _named(self, owner: Any, items: list[Any]) -> None:
        if type(owner) is not dict or not all(isinstance(name, str) for name in items[::2]):
            raise _Refused("a mapping of other than names")
        owner.update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        *_, owner, name, value = self.stack
        del self.stack[-2:]
        self._named(owner, [name, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._named(self.stack[-1], items)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            path = f"{module}.{name}"[:80]
            raise _Refused(path if path.isprintable() else shown(path))
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside the file")
