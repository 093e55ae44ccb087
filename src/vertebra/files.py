"""Reading text, JSON, XML and YAML within bounds, and writing files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast
from xml.etree import ElementTree

import yaml
from safetensors import SafetensorError

from vertebra.errors import VertebraError, first_line, is_out_of_memory, shown

MAX_BYTES = 8 << 30
"""Size of a text file up to which it is read; the largest annotation files in use have half of it."""
MAX_YAML_BYTES = 64 << 20
MAX_XML_BYTES = 256 << 20
"""Of one XML file, whose elements take many times as much memory."""
MAX_DEPTH = 100
"""Levels of lists and mappings in one another, in YAML."""
MAX_NUMBER = 1e9
"""No coordinate, size or score in a file is beyond it, either way."""
MAX_DIGITS = 19
"""Digits of an integer, in JSON and YAML; a number with more is read as a float."""


def expanded(path: str | Path) -> Path:
    """With the user's own folder for a `~` at its beginning; as it is if there is no such user."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        VertebraError: if it is missing, unreadable, larger than `limit` bytes, or a pipe or device, which may not end.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise VertebraError(f"{path} is {kind}, not a file.")
        if status.st_size > limit:
            raise VertebraError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read.")
        with path.open("rb") as file:
            # As much is allocated at once. Some files of /proc and /sys say that they are empty, and do not end.
            return file.read(min(limit, max(status.st_size, 1 << 20)))
    except (OSError, ValueError) as error:
        if isinstance(error, VertebraError):
            raise
        raise VertebraError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """A text file in UTF-8, with or without the mark at its beginning that some editors write.

    Raises:
        VertebraError: as `read_bytes`, and if it is in another encoding.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VertebraError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, limit: int = MAX_BYTES) -> Any:
    """The content of a JSON file, see `parse_json`.

    Raises:
        VertebraError: as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, limit), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """JSON text. Integers of more than MAX_DIGITS digits become floats, those of more than 308 infinite.

    NaN and Infinity are read as such: whoever uses a number checks it.

    Args:
        text: in UTF-8, -16 or -32 if it is bytes.
        name: of the file, for messages.

    Raises:
        VertebraError: if it is not JSON, or nested too deeply.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        # Which is slow: annotation files have millions of integers.
        return json.loads(text, parse_int=_integer if _LONG.search(text) else None)
    except json.JSONDecodeError as error:
        where = f"at character {error.pos:,} of {len(error.doc):,}"  # one cut short ends there
        raise VertebraError(f"{name}, line {error.lineno}: not valid JSON ({error.msg} {where}).") from error
    except UnicodeDecodeError as error:
        raise VertebraError(f"{name} is not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except RecursionError as error:
        raise VertebraError(f"{name}: lists and objects are nested too deeply.") from error


_LONG = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS + digits.startswith("-") else float(digits)


def is_number(value: object, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> bool:
    """Whether a value out of a file is a number in low..high: not a bool, not text, not NaN."""
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def are_numbers(values: object) -> bool:
    """Whether a value out of a file is a list of numbers, each as `is_number` has it."""
    if not isinstance(values, list | tuple) or not set(map(type, values)) <= {int, float}:
        return False
    # NaN, which compares with nothing, is in the sum wherever it stands.
    return not values or (min(values) >= -MAX_NUMBER and max(values) <= MAX_NUMBER and math.isfinite(sum(values)))


def cell(text: str) -> str:
    """Text for a cell of a CSV file: where a spreadsheet would take its beginning for a formula, behind a quote."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root element of an XML file. The parser refuses entities that stand for much text.

    Raises:
        VertebraError: as `read_bytes`, and if it is not valid XML.
    """
    content = read_bytes(path, MAX_XML_BYTES)
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise VertebraError(f"{path}, line {line}: not valid XML ({error}); the file may be cut short.") from error
    except (ValueError, LookupError) as error:  # an unknown encoding
        raise VertebraError(f"{path} is not valid XML ({first_line(error)}).") from error


def read_yaml(path: str | Path) -> tuple[Any, yaml.Node | None]:
    """The content of a YAML file and its tree of nodes, which know their lines, see `parse_yaml`.

    Raises:
        VertebraError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def parse_yaml(text: str, name: str) -> tuple[Any, yaml.Node | None]:
    """The content of a YAML document and its tree of nodes.

    Plain scalars are read as YAML 1.2's core schema has them: `true`, `null`, `12`, `1e-3`; `yes`, `0b1`, `12:30` and
    dates are strings.

    Args:
        text: the document.
        name: of the file, for messages.

    Raises:
        VertebraError: if it is not valid YAML, has tags of other types, or is nested too deeply or holds too much,
            aliases counted as what they stand for.
    """
    try:
        _check_depth(text)
        loader = _YamlLoader(text)
        try:
            node = loader.get_single_node()
            _count(node, {}, MAX_YAML_BYTES)
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # TypeError: a key that is a list
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise VertebraError(f"{name}{where}: not valid YAML ({reason}).") from error


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads strings, numbers, true, false, null, lists and mappings, and nothing else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str, Any]] = {}


def _scalar(loader: Any, node: yaml.ScalarNode) -> Any:
    """A tagged or recognised scalar, by its tag."""
    kind, text = node.tag.rpartition(":")[2], loader.construct_scalar(node)
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return _integer(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except (KeyError, ValueError) as error:
        problem = f"{shown(text, 40)} is no {kind}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _unknown(loader: Any, node: yaml.Node) -> Any:
    problem = f"the tag {shown(node.tag, 60)} is not read"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _YamlLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _YamlLoader.add_constructor(_tag, _scalar)
for _kind in ("str", "seq", "map"):
    _YamlLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(yaml.SafeLoader, f"construct_yaml_{_kind}"))
_YamlLoader.add_constructor(None, _unknown)


def _check_depth(text: str) -> None:
    """Before the recursive part of the parser, which a deep document would take beyond its stack."""
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.MarkedYAMLError(
                    None, None, f"more than {MAX_DEPTH} levels", cast("yaml.Mark", event.start_mark)
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _count(node: yaml.Node | None, counts: dict[int, int], limit: int) -> int:
    """Nodes under `node`, each alias counted as what it stands for; raises if they are more than `limit`."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in counts:
        if counts[id(node)] < 0:
            raise yaml.MarkedYAMLError(None, None, "an alias stands inside of what it stands for", node.start_mark)
        return counts[id(node)]
    counts[id(node)] = -1
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1 + sum(_count(child, counts, limit) for child in children)
    if total > limit:
        raise yaml.MarkedYAMLError(None, None, "aliases repeat too much", node.start_mark)
    counts[id(node)] = total
    return total


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well; else `path` stays as it was.

    Raises:
        VertebraError: if it cannot be written, a full disk for example.
    """
    with held(path) as temporary:
        try:
            yield temporary
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            if is_out_of_memory(error):
                raise
            raise unsaved(Path(path), error) from error


@contextlib.contextmanager
def held(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a file that is open while much else is done, whose errors are not blamed on it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _temporary.add(temporary)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in _cleared:  # once: a folder may take a hundred thousand files
                remove_leftovers(path.parent)
        except OSError as error:
            raise unsaved(path, error) from error
        yield temporary
        try:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # safetensors writes for the owner alone
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise unsaved(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # as on a disk that has become read-only
            temporary.unlink(missing_ok=True)
        _temporary.discard(temporary)


_temporary: set[Path] = set()
"""Files that this process is writing."""
_cleared: set[Path] = set()
"""Folders without leftovers of earlier processes."""


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files in a folder whose process has ended without doing so, as after SIGKILL."""
    for path in folder.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and path not in _temporary and not _is_another_process(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()
    _cleared.add(folder)


def _is_another_process(number: int) -> bool:
    """Whether a process of that number is running, and is not this one."""
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return number != os.getpid()


def unsaved(path: Path, error: Exception) -> VertebraError:
    """The error for a file, or for a folder with files, that cannot be written because of another error."""
    kept = " The one saved before is still whole." if path.is_file() else ""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) and (known := re.search(r"os error (\d+)", reason)):  # of safetensors
        number, reason = int(known[1]), os.strerror(int(known[1]))
    hint = ""
    if number in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # torch gives no number for a full disk
        hint = ": free some space and resume"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = ": choose a folder that can be written"
    return VertebraError(f"{path} could not be saved ({reason}){hint}.{kept}")
