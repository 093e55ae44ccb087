"""The one error a user's mistake raises: a sentence that says what, where, and what to do next."""

import difflib
import math
import reprlib
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


class VertebraError(ValueError):
    """Something the user can put right. The command line prints its text alone, without a traceback."""


def shown(value: object, limit: int = 80) -> str:
    """A value out of a file or of a user for a message: its repr on one line, cut to about `limit` characters.

    Bounded in time too, whatever the value holds.
    """
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, limit, limit, limit
    text = short.repr(value).replace("\n", " ")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def escaped(text: str) -> str:
    """Text for one line of output: control characters and what is no character, as of a name that is not UTF-8, by
    their numbers (`\\udce9`)."""
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        else c
        for c in text
    )


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, cut to 300 characters, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the CPU or of a device is used up."""
    signs = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    of_an_engine = type(error).__module__.startswith(("onnxruntime", "openvino"))  # whose errors have no base but this
    return (isinstance(error, RuntimeError | OSError) or of_an_engine) and any(sign in str(error) for sign in signs)


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.55) -> str:
    """`" Did you mean 'resnet50'?"`, or `""` where nothing comes close.

    Args:
        cutoff: similarity, in 0..1, that a choice must have; as `difflib` computes it.
    """
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_fields(owner: str, given: Iterable[str], fields: Iterable[str]) -> None:
    """Raises if one of the options `given` to `owner` is none of its `fields`."""
    for key in given:
        if key not in fields:
            raise VertebraError(
                f"{owner} has no option {shown(key)}; there are {', '.join(sorted(fields))}.{nearest(key, fields)}"
            )


def in_range(what: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raises if option `what` has a `value` that is not a finite number in low..high; None stands for a default and
    passes."""
    if value is None or low <= value <= (sys.float_info.max if high is None else high):
        return
    finite = " and finite" if value == math.inf else ""
    expected = (
        f"be {_number(low)} or more{finite}" if high is None else f"lie between {_number(low)} and {_number(high)}"
    )
    raise VertebraError(f"{what} is {_number(value)}; it must {expected}.")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if abs(value) < 10**40 else shown(value, 40)


@lru_cache(1024)  # typing compiles every annotation anew
def field_types(config: type) -> Mapping[str, Any]:
    """The types of the fields of a dataclass, by name."""
    return get_type_hints(config)


def check_choices(options: Any) -> None:
    """Raises if a field of a dataclass that is one of some words has another value."""
    for name, kind in field_types(options.__class__).items():
        if get_origin(kind) is Literal:
            one_of(name, getattr(options, name), get_args(kind))


def one_of(what: str, value: str, choices: Iterable[str]) -> None:
    """Raises if option `what` has a `value` that is none of `choices`."""
    if value not in choices:
        raise VertebraError(f"{what} is {shown(value)}; there are {', '.join(choices)}.{nearest(value, choices)}")
