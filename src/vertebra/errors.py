"""The one error a user's mistake raises: a sentence that says what, where, and what to do next."""

import difflib
import reprlib
from collections.abc import Iterable
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


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'resnet50'?"`, or `""` where nothing comes close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_fields(owner: str, given: Iterable[str], fields: Iterable[str]) -> None:
    """Raises if one of the options `given` to `owner` is none of its `fields`."""
    for key in given:
        if key not in fields:
            raise VertebraError(
                f"{owner} has no option {key!r}; there are {', '.join(sorted(fields))}.{nearest(key, fields)}"
            )


def in_range(what: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raises if option `what` has a `value` that is not in low..high; None stands for a default and passes."""
    if value is not None and not (low <= value and (high is None or value <= high)):
        expected = f"be {low:g} or more" if high is None else f"lie between {low:g} and {high:g}"
        raise VertebraError(f"{what} is {value:g}; it must {expected}.")


def check_choices(options: Any) -> None:
    """Raises if a field of a dataclass that is one of some words has another value."""
    for name, kind in get_type_hints(type(options)).items():
        if get_origin(kind) is Literal:
            one_of(name, getattr(options, name), get_args(kind))


def one_of(what: str, value: str, choices: Iterable[str]) -> None:
    """Raises if option `what` has a `value` that is none of `choices`."""
    if value not in choices:
        raise VertebraError(f"{what} is {value!r}; there are {', '.join(choices)}.{nearest(value, choices)}")
