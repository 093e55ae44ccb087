"""Flags from dataclasses by jsonargparse, with errors that name the nearest valid option."""

from __future__ import annotations

import itertools
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import jsonargparse
import yaml
from jsonargparse import Namespace, set_parsing_settings

from vertebra.errors import VertebraError, nearest

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class ArgumentParser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, for dataclasses that inherit fields from other modules, with headings in plain words.

    The docstring of a dataclass that has none is its signature, which jsonargparse would take for the heading.
    """

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, **kwargs: Any) -> list[str]:
        _resolve_annotations(theclass)
        added: list[str] = super().add_class_arguments(theclass, nested_key, **kwargs)
        depth = nested_key.count(".") + 1 if nested_key else 0
        for action in self._actions:
            if action.dest.startswith(nested_key or "") and action.dest.count(".") > depth:
                action.required = False  # what the field of a group lacks, the config's default for the group has
        return added

    def format_help(self, formatter: Any = None) -> str:
        for name, group in (self.groups or {}).items():
            if group.title and re.fullmatch(r"\w+\(.*\)", group.title, re.DOTALL):
                nested = not group.title.startswith(f"{name}(")  # else `name` is that of the dataclass
                group.title = f"options of --{name}" if nested else f"options of {self.prog}"
        return super().format_help(formatter)


def _resolve_annotations(config: type) -> None:
    """Puts types in place of the strings that annotate the `__init__` of a dataclass and of the dataclasses in it.

    jsonargparse looks the strings up in the module of the class, where the types of inherited fields may be unknown.
    """
    hints = get_type_hints(config)
    annotations = config.__init__.__annotations__  # type: ignore[misc]
    annotations |= {name: hint for name, hint in hints.items() if name in annotations}
    for hint in hints.values():
        if isinstance(hint, type) and is_dataclass(hint):
            _resolve_annotations(hint)


def parser(command: str, description: str) -> ArgumentParser:
    """An empty parser for `vertebra COMMAND`."""
    return ArgumentParser(prog=f"vertebra {command}", description=description, exit_on_error=False)


def parse(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The values of all options; a bare flag of a yes-or-no option means yes.

    Raises:
        VertebraError: for an unknown option, a missing argument or a value of the wrong type.
    """
    return _parse(parser, argv, defaults=True)


def explicit_options(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The options that the user set, on the command line or in a --config file, as nested mappings.

    An option that was set to its default value is among them; defaults, and values of `set_defaults`, are not.

    Raises:
        VertebraError: as `parse`.
    """
    printing = any(word.startswith("--print_config") for word in argv)  # which prints the defaults too, and exits
    options = _parse(parser, argv, defaults=printing).as_dict()
    options.pop("config", None)
    return options


def _parse(parser: jsonargparse.ArgumentParser, argv: Sequence[str], *, defaults: bool) -> Namespace:
    arguments = _checked(parser, argv)
    try:
        return parser.parse_args(arguments, defaults=defaults)
    except ArgumentError as error:
        raise VertebraError(_one_sentence(parser, error, arguments)) from error


def _checked(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The words of the command line, all of whose flags exist, with `=true` after bare yes-or-no flags."""
    options = {name: action for action in parser._actions for name in action.option_strings}
    arguments: list[str] = []
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, _ = word.partition("=")
        if word.startswith("--") and not _is_in_mapping(name, options):
            if name not in options:
                known = [option for option in options if option.startswith("--") and option != "--print_config"]
                hint = nearest(name, known) or f" {parser.prog} --help lists them."
                raise VertebraError(f"{name} is not an option of {parser.prog}.{hint}")
            action = options[name]
            bare = action.nargs != 0 and not equals and following.lower() not in ("true", "false")
            if bare and _is_yes_or_no(action):
                word = f"{name}=true"
        arguments.append(word)
    return arguments


def option(words: Sequence[str], name: str) -> str:
    """The value of --name in `words`, as `--name=value` or `--name value`; empty if it is not there."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            return value if equals else following
    return ""


def check_config(path: str, parser: jsonargparse.ArgumentParser | None = None) -> dict[str, Any]:
    """Reads a YAML config and checks its keys against the parser's options, so that the error can name the line.

    Raises:
        VertebraError: if the file is missing or damaged, or has a key that is not an option.
    """
    try:
        text = Path(path).read_text()
        tree, content = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise VertebraError(f"config {path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise VertebraError(f"config {path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(content, dict):
        raise VertebraError(f"config {path} is not a mapping of option names to values.")
    if parser:
        actions = {action.dest: action for action in parser._actions if action.option_strings}
        known = actions.keys() - {"help", "config"}
        groups = {name[: dot.start()] for name in known for dot in re.finditer(r"\.", name)}
        mappings = [f"{name}." for name in known if _is_mapping(actions[name])]  # their keys are not options
        for key, line in _keys(tree):
            if key not in known | groups and not key.startswith(tuple(mappings)):
                raise VertebraError(f"config {path}, line {line}: there is no option {key!r}.{nearest(key, known)}")
    return content


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every key of a YAML document by its dotted path, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _keys(value, f"{name}.")


def _is_in_mapping(name: str, options: dict[str, Any]) -> bool:
    """Whether a flag is a key of an option that takes a mapping, such as --model.options.depth."""
    parent = name.rpartition(".")[0]
    return parent in options and _is_mapping(options[parent])


def _is_mapping(action: Any) -> bool:
    return get_origin(getattr(action, "_typehint", None)) is dict


def _is_yes_or_no(action: Any) -> bool:
    return getattr(action, "_typehint", None) is bool or getattr(action, "type", None) is bool


def _one_sentence(parser: jsonargparse.ArgumentParser, error: ArgumentError, words: Sequence[str]) -> str:
    text = " ".join(line.strip(" -") for line in str(error.message).strip().splitlines() if line.strip())
    text = re.sub(r"<class '(\w+)'>", r"\1", text.replace("typing.", ""))
    if match := re.match(r"Parser key \"(.+?)\": ?(.*)", text):
        where = _origin(match[1], words)
        if wrong := re.match(r"Expected a Literal\[(.+?)\]\. Got value: (.+)", match[2]):
            choices = re.findall(r"[^', ]+", wrong[1])
            return f"{where} is {wrong[2]!r}; there are {', '.join(choices)}.{nearest(wrong[2], choices)}"
        text = f"{where}: {match[2]}"
    return f"{text.rstrip('.')}. {parser.prog} --help lists the options and their types."


def _origin(key: str, words: Sequence[str]) -> str:
    """Where the value of an option stands: on the command line, or in which line of the config."""
    config = option(words, "config")
    if config and not option(words, key):
        lines = dict(_keys(yaml.compose(Path(config).read_text(), yaml.SafeLoader)))
        if key in lines:
            return f"config {config}, line {lines[key]}, {key}"
    return f"--{key}"
