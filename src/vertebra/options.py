"""Options of a model: frozen dataclasses that may hold further ones, merged from layers and built once.

An option is named by its dotted path, such as `anchors.scale`.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from vertebra.errors import VertebraError, field_types, nearest, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TRAINING = "training"
_ADJUSTABLE = "adjustable"


def training_only(default: Any) -> Any:
    """A dataclass field that belongs to one training run: it is not taken over from a checkpoint."""
    return dataclasses.field(default=default, metadata={_TRAINING: True})


def adjustable(default: Any) -> Any:
    """A dataclass field of how predictions are made of a model's outputs: it can be changed after training."""
    return dataclasses.field(default=default, metadata={_ADJUSTABLE: True})


@cache
def groups(config: type) -> Mapping[str, type]:
    """The fields of a dataclass that are dataclasses themselves, whose own fields are options."""
    hints = field_types(config)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(config)
        if isinstance(hints[field.name], type)
        and dataclasses.is_dataclass(hints[field.name])
        and not hasattr(hints[field.name], "from_dict")
    }


def names(config: type, *, training: bool = True) -> list[str]:
    """Every option of a config by its dotted path; without those of `training_only` if `training` is False."""
    nested = groups(config)
    result = []
    for field in dataclasses.fields(config):
        if field.metadata.get(_TRAINING) and not training:
            continue
        result += (
            [f"{field.name}.{name}" for name in names(nested[field.name])] if field.name in nested else [field.name]
        )
    return result


def check_adjustable(config: type, options: Mapping[str, Any]) -> None:
    """Raises VertebraError if an option is not `adjustable`."""
    known = [field.name for field in dataclasses.fields(config) if field.metadata.get(_ADJUSTABLE)]
    for name in options:
        if name not in known:
            there = f"those that can are {', '.join(known)}" if known else "this model has none that can"
            raise VertebraError(
                f"option {shown(name)} cannot be changed after training; {there}.{nearest(name, known)}"
            )


def flatten(config: type, options: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """Options by dotted path, from a mapping that may hold mappings or built groups: `{"anchors": {"scale": 4}}`.

    Raises:
        VertebraError: if an option does not exist; `owner` names whose option it would be.
    """
    nested = groups(config)
    flat: dict[str, Any] = {}
    for key, value in options.items():
        head, _, rest = key.partition(".")
        if head in nested:
            if not rest and dataclasses.is_dataclass(value):
                value = dataclasses.asdict(value)  # type: ignore[arg-type]
            if rest or isinstance(value, Mapping):
                inner = {rest: value} if rest else value
                flat |= {f"{head}.{k}": v for k, v in flatten(nested[head], inner, f"{owner}{head}.").items()}
                continue
            known = ", ".join(field.name for field in dataclasses.fields(nested[head]))
            raise VertebraError(f"{owner}{head} is {shown(value)}; it takes a mapping of its options: {known}.")
        if key not in {field.name for field in dataclasses.fields(config)}:
            known_names = names(config)
            raise VertebraError(
                f"{owner.rstrip('.') or 'the model'} has no option {shown(key)}; there are "
                f"{', '.join(sorted(known_names))}.{nearest(key, known_names)}"
            )
        flat[key] = value
    return flat


def build(config: type, *layers: Mapping[str, Any], owner: str = "") -> Any:
    """A config from layers of options, the later winning over the earlier, on top of the defaults.

    Args:
        config: a dataclass.
        layers: options by dotted path or as nested mappings; lists become tuples, as they were before JSON.

    Raises:
        VertebraError: if an option does not exist or its value is refused.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= flatten(config, layer, owner)
    return _built(config, merged, owner)


def _built(config: type, options: Mapping[str, Any], owner: str) -> Any:
    """Groups keep the defaults that the config gives them, field by field."""
    values: dict[str, Any] = {}
    nested = groups(config)
    hints = field_types(config)
    for field in dataclasses.fields(config):
        if field.name in nested:
            inner = {k.partition(".")[2]: v for k, v in options.items() if k.startswith(f"{field.name}.")}
            if inner:
                current = flatten(nested[field.name], dataclasses.asdict(field.default))  # type: ignore[arg-type]
                values[field.name] = _built(nested[field.name], {**current, **inner}, f"{owner}{field.name}.")
        elif field.name in options:
            value = options[field.name]
            kind = hints[field.name]
            kinds = [choice for choice in (kind, *get_args(kind)) if hasattr(choice, "from_dict")]
            if isinstance(value, Mapping) and kinds:
                value = kinds[0].from_dict(dict(value))
            values[field.name] = as_tuples(value)
    check_types(config, values, owner)
    return config(**values)


def check_types(config: type, options: Mapping[str, Any], owner: str = "") -> None:
    """Raises if the value of an option is not of the type of its field in a dataclass.

    Args:
        options: by the names of fields; of groups and of names without a field, nothing is checked.
        owner: before the names in the message, such as `anchors.`.
    """
    hints = field_types(config)
    for name, value in options.items():
        if name in hints and not _is_of(value, hints[name]):
            raise VertebraError(f"{owner}{name} is {shown(value)}; it must be {_described(hints[name])}.")


_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; of types that options do not have, everything is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, choice) for choice in inner)
    if origin is Literal:
        return type(value) in {type(choice) for choice in inner}  # which word it is, `check_choices` checks
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(kinds) == len(value) and all(map(_is_of, value, kinds))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(isinstance(key, inner[0]) for key in value)
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool) and value == value  # which NaN is not
    if hasattr(kind, "from_dict") and isinstance(value, Mapping):
        return True  # what it holds, `from_dict` checks
    return isinstance(value, kind) if kind in _TYPES or dataclasses.is_dataclass(kind) else True


def _described(kind: Any, plural: bool = False) -> str:
    """A type in words: `an integer`, `4 integers`, `a list of numbers`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(choice) for choice in inner)
    if origin is tuple:
        number = "" if inner[1:] == (...,) else f"{len(inner)} "
        many = "lists of " if plural else "" if number else "a list of "
        return f"{many}{number}{_described(inner[0], True)}"
    if origin in (dict, Mapping):
        return "a mapping from names"
    word = _TYPES.get(str if origin is Literal else kind, "mapping")
    if kind is types.NoneType:
        return word
    return f"{word}s" if plural else f"{'an' if word == 'integer' else 'a'} {word}"


def as_tuples(value: Any) -> Any:
    """Lists as the tuples that they were before JSON, in mappings too."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """A config as YAML and JSON take it: dataclasses as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def differing(config: DataclassInstance, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, by dotted path, that a built config has otherwise, with the values of `options`."""
    current = _flat(config)
    return {key: value for key, value in flatten(type(config), options).items() if current[key] != as_tuples(value)}


def changed(config: DataclassInstance, other: DataclassInstance) -> dict[str, Any]:
    """The options, by dotted path, of a built config that another of its type has otherwise, with the values of
    `config`."""
    theirs = _flat(other)
    return {key: value for key, value in _flat(config).items() if value != theirs[key]}


def _flat(config: DataclassInstance) -> dict[str, Any]:
    return flatten(type(config), {field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
