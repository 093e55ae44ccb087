"""Command lines and config files: options from dataclasses, their values, and errors that name the nearest option.

Values are data: strings, numbers, booleans, lists and mappings, of the types that the dataclasses declare. Nothing that
a command line or a config names is imported or called.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from vertebra import options, synonyms
from vertebra.errors import VertebraError, field_types, nearest, one_of, shown
from vertebra.files import parse_yaml, read_yaml

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass
class Option:
    """A flag `--NAME`, and the key NAME of a config file."""

    name: str
    """Dotted path, such as `data.batch_size`."""
    owner: type | None
    """The dataclass that has its field; any text is a value if None."""
    kind: Any
    """Type of its values."""
    default: Any
    """REQUIRED if it has none."""
    choices: Sequence[str] = ()
    """The values that it may have, if they are limited."""

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types of a union, else the one type, without their arguments."""
        union = get_origin(self.kind) in (Union, types.UnionType)
        return tuple(get_origin(kind) or kind for kind in (get_args(self.kind) if union else (self.kind,)))

    @property
    def holds_mapping(self) -> bool:
        """Whether `--NAME.KEY=VALUE` sets one of its entries."""
        return dict in self.kinds

    def check(self, value: Any) -> Any:
        """The value. Raises VertebraError if it has another type, or is none of the choices."""
        group, _, field = self.name.rpartition(".")
        if self.owner:
            options.check_types(self.owner, {field: value}, f"{group}." if group else "")
        if self.choices and value is not None:
            one_of(self.name, value, self.choices)
        return value

    def parse(self, text: str) -> Any:
        """The value that a word of the command line stands for."""
        word = text.strip().lower()
        if not text:
            raise VertebraError(f"--{self.name} needs a value.")
        if types.NoneType in self.kinds and word in ("null", "none"):
            return None
        if self.kinds[0] is bool and word in ("true", "false"):
            return word == "true"
        if str in self.kinds or self.choices:
            return self.check(text)
        if int in self.kinds and re.fullmatch(r"[-+]?[0-9]{1,99}", word):
            return int(word)
        if {tuple, list} & set(self.kinds) and word[0] not in "[(":
            text = f"[{text}]"
        elif word.startswith("(") and word.endswith(")"):
            text = f"[{text.strip()[1:-1]}]"
        return self.check(parse_yaml(text, f"--{self.name}")[0])


@dataclasses.dataclass
class Config:
    """A YAML file of options."""

    path: str
    content: Mapping[str, Any]
    lines: Mapping[str, int]
    """The line of each key, by its dotted path."""

    def where(self, name: str) -> str:
        """The file and line of a key."""
        return f"config {self.path}, line {self.lines[name]}" if name in self.lines else f"config {self.path}"


class ArgumentParser:
    """The positional arguments and options of one command."""

    def __init__(self, command: str, description: str) -> None:
        self.command = f"vertebra {command}"
        self.verb = command if command in synonyms.OPTIONS else command.split()[0]
        self.options: dict[str, Option] = {}
        self._help = argparse.ArgumentParser(prog=self.command, description=description, add_help=False)
        self._help.add_argument("-h", "--help", action="store_true", help="Show this text and exit.")
        self._positionals: list[argparse.Action] = []

    def add_argument(self, name: str, *, nargs: Literal["?", "*", "+"] | None = None, help: str) -> None:
        """A positional argument: one, or as many as `nargs` says."""
        default: Any = [] if nargs == "*" else None
        metavar = name.upper()
        action = self._help.add_argument(name, nargs=nargs, help=help, default=default, metavar=metavar)
        action.required = nargs in (None, "+")
        self._positionals.append(action)

    def add_option(self, name: str, text: str, *, default: Any = None, choices: Sequence[str] = ()) -> None:
        """An option whose values are texts; it must be given if `default` is REQUIRED."""
        self._add(self._help, Option(name, None, str, default, choices), text)

    def add_class_arguments(
        self,
        config: type,
        prefix: str = "",
        *,
        skip: Sequence[str] = (),
        choices: Mapping[str, Sequence[str]] | None = None,
        title: str | None = None,
    ) -> None:
        """An option for each field of a dataclass; what is printed of it is the text under the field.

        Args:
            config: the dataclass, whose fields may be dataclasses themselves.
            prefix: before the names of the options, such as `data`.
            skip: fields that are no options.
            choices: the values that options may have, by name, if they are limited by more than the type.
            title: heading of the options; `config` says it if None.
        """
        dotted = f"{prefix}." if prefix else ""
        heading = title or _summary(config) or (f"options of --{prefix}" if prefix else "")
        group = self._help.add_argument_group(heading.rstrip(".")) if heading else self._help
        hints, documentation = field_types(config), field_docs(config)
        inner = {name: nested for name, nested in options.groups(config).items() if name not in skip}
        for field in dataclasses.fields(config):
            if field.name in skip or field.name in inner:
                continue
            name = f"{dotted}{field.name}"
            default = field.default_factory() if callable(field.default_factory) else field.default
            words = (choices or {}).get(name) or _words(hints[field.name])
            self._add(group, Option(name, config, hints[field.name], default, words), documentation.get(field.name, ""))
        for name, nested in inner.items():
            self.add_class_arguments(nested, f"{dotted}{name}", choices=choices, title=documentation.get(name))
            (of_group,) = (field.default for field in dataclasses.fields(config) if field.name == name)
            if dataclasses.is_dataclass(of_group):
                self.set_defaults({f"{dotted}{name}": vars(of_group)})

    def _add(self, group: argparse._ActionsContainer, option: Option, text: str) -> None:
        self.options[option.name] = option
        shape: dict[str, Any] = {"action": "store_true"} if option.default is False else {"metavar": _metavar(option)}
        group.add_argument(f"--{option.name}", dest=option.name, help=text.replace("%", "%%"), **shape)

    def set_defaults(self, values: Mapping[str, Any]) -> None:
        """Other defaults, by dotted name or as nested mappings; names without an option are passed over."""
        for name, value in values.items():
            if name in self.options:
                self.options[name].default = value
            elif isinstance(value, Mapping):
                self.set_defaults({f"{name}.{key}": item for key, item in value.items()})

    def format_help(self) -> str:
        for action in self._help._actions:
            option = self.options.get(action.dest)
            if option and not (option.default in (None, REQUIRED, (), {}, "") or option.default is False):
                text = str(action.help).partition(" (default: ")[0]
                action.help = f"{text} (default: {_shown_default(option.default)})"
        names = {None: "{}", "?": "[{}]", "*": "[{} ...]", "+": "{} [{} ...]"}
        words = [names[action.nargs].format(*[action.metavar] * 2) for action in self._positionals]  # type: ignore[index]
        self._help.usage = " ".join([self.command, *words, "[--OPTION=VALUE ...]"])
        return self._help.format_help()


def parser(command: str, description: str) -> ArgumentParser:
    """An empty parser for `vertebra COMMAND`."""
    return ArgumentParser(command, description)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> types.SimpleNamespace:
    """The values of all arguments and options, those of groups one level down: `options.data.path`.

    A bare flag of a yes-or-no option means yes. `--help` prints the help and exits.

    Raises:
        VertebraError: for an unknown option, a missing argument or a value of the wrong type.
    """
    given, words = _given(parser, argv)
    for name, option in parser.options.items():
        if given.setdefault(name, option.default) is REQUIRED:
            raise VertebraError(f"{parser.command} needs --{name}. `{parser.command} --help` says what it is.")
    result = types.SimpleNamespace(**_arguments(parser, words))
    for name, value in given.items():
        place = result
        *groups, last = name.split(".")
        for group in groups:
            if not hasattr(place, group):
                setattr(place, group, types.SimpleNamespace())
            place = getattr(place, group)
        setattr(place, last, value)
    return result


def explicit_options(parser: ArgumentParser, argv: Sequence[str], config: Config | None = None) -> dict[str, Any]:
    """The options that the user set, by dotted name, in a config file or, winning over it, on the command line.

    Raises:
        VertebraError: as `parse`.
    """
    given, words = _given(parser, argv, {} if config is None else _configured(parser, config))
    _arguments(parser, words)
    return given


def _given(
    parser: ArgumentParser, argv: Sequence[str], configured: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The values of the options that are set, the last where one is set twice, and the other words."""
    given, words = dict(configured or {}), []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            print(parser.format_help())
            raise SystemExit(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        flag, equals, text = word.partition("=")
        option, key = _find(parser, flag)
        if not equals:
            bare = not rest or rest[0].lower() not in ("true", "false")
            if option.kinds[0] is bool and bare:
                text = "true"
            elif not rest or re.match(r"--|-[a-zA-Z]", rest[0]):
                raise VertebraError(f"{flag} needs a value: {flag}={_metavar(option)}.")
            else:
                text = rest.pop(0)
        if key:
            value, _ = parse_yaml(text, flag)
            given[option.name] = _joined(given.get(option.name) or {}, key.split("."), value)
        else:
            given[option.name] = option.parse(text)
    return given, words


def _find(parser: ArgumentParser, flag: str) -> tuple[Option, str]:
    """The option of a flag, and the key in its mapping that the flag is of, if any."""
    name = flag.removeprefix("--") if flag.startswith("--") else ""
    if name in parser.options:
        return parser.options[name], ""
    for option in parser.options.values():
        if option.holds_mapping and name.startswith(f"{option.name}."):
            return option, name.removeprefix(f"{option.name}.")
    hint = synonyms.option_hint(parser.verb, flag, parser.options)
    if not hint and any(known.startswith(f"{name}.") for known in parser.options):
        hint = f" Its options are --{name}.NAME=VALUE."
    if not hint and (close := nearest(name, parser.options, 0.75)):
        hint = close.replace("'", "'--", 1)
    hint = hint or f" `{parser.command} --help` lists them."
    raise VertebraError(f"{_plain(flag)} is not an option of {parser.command}.{hint}")


def _plain(word: str) -> str:
    """A word for a message: as it was typed if it is short and plain."""
    return word if re.fullmatch(r"[-\w./=]{1,60}", word) else shown(word, 60)


def _joined(mapping: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested mappings in which the entry of a path has another value."""
    first, *rest = keys
    inner = mapping.get(first)
    return {**mapping, first: _joined(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """The values of the positional arguments."""
    rest = list(words)
    values: dict[str, Any] = {}
    for action in parser._positionals:
        if action.required and not rest:
            raise VertebraError(f"{parser.command} needs {action.metavar}. `{parser.command} --help` says what it is.")
        if action.nargs in ("*", "+"):
            values[action.dest], rest = rest, []
        else:
            values[action.dest] = rest.pop(0) if rest else action.default or ""
    if rest:
        name = rest[0].partition("=")[0]
        hint = synonyms.option_hint(parser.verb, f"--{name}", parser.options)
        raise VertebraError(f"{parser.command} does not take {_plain(rest[0])}: options begin with --.{hint}")
    return values


# -- config files


def option(words: Sequence[str], name: str) -> str:
    """The value of --name in `words`, as `--name=value` or `--name value`; empty if it is not there."""
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            return value if equals else following
    return ""


def read_config(path: str) -> Config:
    """A YAML file of options, whose names and values are not checked yet.

    Raises:
        VertebraError: if the file is missing or damaged, or no mapping.
    """
    content, node = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise VertebraError(f"config {path} is not a mapping of option names to values.")
    return Config(path, content, dict(_lines(node)))


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every key of a YAML document by its dotted path, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _lines(value, f"{name}.")


def _configured(parser: ArgumentParser, config: Config) -> dict[str, Any]:
    """The options in a config file, by dotted name."""
    values: dict[str, Any] = {}

    def collect(content: Mapping[str, Any], prefix: str) -> None:
        for key, value in content.items():
            name = f"{prefix}{key}"
            if name in parser.options:
                try:
                    values[name] = parser.options[name].check(value)
                except VertebraError as error:
                    raise VertebraError(f"{config.where(name)}: {error}") from error
            elif any(known.startswith(f"{name}.") for known in parser.options):
                if not isinstance(value, Mapping):
                    raise VertebraError(f"{config.where(name)}: {name} is {shown(value)}; it is a group of options.")
                collect(value, f"{name}.")
            else:
                hint = synonyms.option_hint(parser.verb, name, parser.options) or nearest(name, parser.options)
                raise VertebraError(f"{config.where(name)}: there is no option {shown(name)}.{hint}")

    collect(config.content, "")
    return values


# -- what is printed


def field_docs(config: type) -> dict[str, str]:
    """The texts under the fields of a dataclass, inherited fields included."""
    texts: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            texts |= _module_docs(sys.modules[owner.__module__]).get(owner.__name__, {})
    return texts


@cache
def _module_docs(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """The texts under the fields of every class of a module."""
    texts: dict[str, dict[str, str]] = {}
    for definition in ast.parse(inspect.getsource(module)).body:
        if not isinstance(definition, ast.ClassDef):
            continue
        of_class = texts[definition.name] = {}
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    of_class[name] = " ".join(words.split())
    return texts


def _summary(config: type) -> str:
    """The docstring of a dataclass in one line; empty for the signature that stands in for it."""
    text = " ".join((config.__doc__ or "").split())
    return "" if text.startswith(f"{config.__name__}(") else text


def _words(kind: Any) -> tuple[str, ...]:
    """The choices of a Literal, or of one that may be None."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def _shown_default(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown_default, value))}]"
    return str(value).replace("%", "%%")


def _metavar(option: Option) -> str:
    """What stands for the value of an option: its choices or its type."""
    if option.choices:
        return f"{{{','.join(option.choices)}}}"
    names: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "[...]", list: "[...]"}
    names |= {bool: "{true,false}", dict: "{KEY: VALUE}"}
    return next((names[kind] for kind in option.kinds if kind in names), "VALUE")
