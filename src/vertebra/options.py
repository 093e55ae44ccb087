"""Options of a model: frozen dataclasses that may hold further ones, merged from layers and built once.

An option is named by its dotted path, such as `anchors.scale`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from vertebra.errors import VertebraError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TRAINING = "training"


def training_only(default: Any) -> Any:
    """A dataclass field that belongs to one training run: it is not taken over from a checkpoint."""
    return dataclasses.field(default=default, metadata={_TRAINING: True})


def groups(config: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves, whose own fields are options."""
    hints = get_type_hints(config)
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
            raise VertebraError(f"{owner}{head} is {value!r}; it takes a mapping of its options: {known}.")
        if key not in {field.name for field in dataclasses.fields(config)}:
            known_names = names(config)
            raise VertebraError(
                f"{owner.rstrip('.') or 'the model'} has no option {key!r}; there are "
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
    return _built(config, merged)


def _built(config: type, options: Mapping[str, Any]) -> Any:
    """Groups keep the defaults that the config gives them, field by field."""
    values: dict[str, Any] = {}
    nested = groups(config)
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in nested:
            inner = {k.partition(".")[2]: v for k, v in options.items() if k.startswith(f"{field.name}.")}
            if inner:
                current = flatten(nested[field.name], dataclasses.asdict(field.default))  # type: ignore[arg-type]
                values[field.name] = _built(nested[field.name], {**current, **inner})
        elif field.name in options:
            value = options[field.name]
            kind = hints[field.name]
            kinds = [choice for choice in (kind, *get_args(kind)) if hasattr(choice, "from_dict")]
            if isinstance(value, Mapping) and kinds:
                value = kinds[0].from_dict(dict(value))
            values[field.name] = as_tuples(value)
    return config(**values)


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
