"""Flags from dataclasses by jsonargparse, with errors that say what to type instead."""

from __future__ import annotations

import itertools
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from vertebra.errors import VertebraError, nearest

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parser(command: str, description: str) -> ArgumentParser:
    """An empty parser for `vertebra COMMAND`."""
    return ArgumentParser(prog=f"vertebra {command}", description=description, exit_on_error=False)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The arguments; a bare flag of a yes-or-no option means yes.

    Raises:
        VertebraError: for an unknown option, a missing argument or a value of the wrong kind.
    """
    options = {name: action for action in parser._actions for name in action.option_strings}
    arguments: list[str] = []
    for word, after in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, _ = word.partition("=")
        if word.startswith("--"):
            owner = name.rpartition(".")[0]
            if owner in options and _is_mapping(options[owner]):
                arguments.append(word)
                continue
            if name not in options:
                known = [o for o in options if o.startswith("--") and o != "--print_config"]
                hint = nearest(name, known) or f" {parser.prog} --help lists them."
                raise VertebraError(f"{name} is not an option of {parser.prog}.{hint}")
            plain = options[name].nargs == 0
            if not equals and not plain and _is_yes_or_no(options[name]) and after.lower() not in ("true", "false"):
                word = f"{name}=true"
        arguments.append(word)
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise VertebraError(_one_sentence(parser, error, arguments)) from error


def option(words: Sequence[str], name: str) -> str:
    """The value of --name in `words`, as `--name=value` or `--name value`; empty if it is not there."""
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            return value if equals else after
    return ""


def check_config(path: str, parser: ArgumentParser | None = None) -> dict[str, Any]:
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
        groups = {name.rpartition(".")[0] for name in known} - {""}
        free = {name for name in known if _is_mapping(actions[name])}  # what stands in a mapping, the model knows
        for key, line in _keys(tree):
            if key not in known | groups and key.rpartition(".")[0] not in free:
                raise VertebraError(f"config {path}, line {line}: there is no option {key!r}.{nearest(key, known)}")
    return content


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _keys(value, f"{name}.")


def _is_mapping(action: Any) -> bool:
    return get_origin(getattr(action, "_typehint", None)) is dict


def _is_yes_or_no(action: Any) -> bool:
    return getattr(action, "_typehint", None) is bool or getattr(action, "type", None) is bool


def _one_sentence(parser: ArgumentParser, error: ArgumentError, words: Sequence[str]) -> str:
    text = " ".join(line.strip(" -") for line in str(error.message).strip().splitlines() if line.strip())
    text = re.sub(r"<class '(\w+)'>", r"\1", text.replace("typing.", ""))
    if match := re.match(r"Parser key \"(.+?)\": ?(.*)", text):
        where = _origin(match[1], words)
        if wrong := re.match(r"Expected a Literal\[(.+?)\]\. Got value: (.+)", match[2]):
            choices = re.findall(r"[^', ]+", wrong[1])
            return f"{where} is {wrong[2]!r}; there are {', '.join(choices)}.{nearest(wrong[2], choices)}"
        text = f"{where}: {match[2]}"
    return f"{text.rstrip('.')}. {parser.prog} --help says what is expected."


def _origin(key: str, words: Sequence[str]) -> str:
    """Where the value of an option stands: on the command line, or in which line of the config."""
    config = option(words, "config")
    if config and not option(words, key):
        lines = dict(_keys(yaml.compose(Path(config).read_text(), yaml.SafeLoader)))
        if key in lines:
            return f"config {config}, line {lines[key]}, {key}"
    return f"--{key}"
