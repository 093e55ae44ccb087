"""Valid input made invalid: values of trees replaced by hostile ones, entries removed or repeated, bytes flipped."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import yaml

Key = str | int
Keys = tuple[Key, ...]

NO_NUMBERS: tuple[Any, ...] = (
    *(float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 10**400, -(10**400)),
    *(None, True, "", "zz", "0x10", "1e5x", [], {}, [[]], {"a": 1}),
)
"""Of which no coordinate, size or rate is one."""
NUMBERS: tuple[Any, ...] = (-1, 0, 1, 0.5, 2, 255, 65536, 2**31, 2**63, 2**64, -(2**63), 1e9, 1e12, 1e-300, -0.0)
TEXTS: tuple[Any, ...] = (
    *(
        "a" * 100_000,
        "a\nb",
        "a\0b",
        "\x1b[2J",
        "\ud800",
        "\u202e<b>&amp;",
        "=cmd|'/c calc'!A1",
        "日本",
        " ",
        "%s%n{0}",
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "/etc",
        "~",
        "http://localhost:1/x.png",
        "file:///etc/passwd",
        "nan",
        "null",
        "-1",
    ),
)
DEEP = "@deep@"
"""Stands for lists in lists, 100,000 levels deep, which the writers of JSON and YAML could not write."""
MANY: tuple[Any, ...] = ([0] * 100_000, [None] * 1000, [[0, 0] for _ in range(10_000)], DEEP)
HOSTILE = NO_NUMBERS + NUMBERS + TEXTS + MANY
NO_NUMBERS_IN_TEXT = ("nan", "inf", "-inf", "1e300", "9" * 400, "zz", "0x10", "True", "None", "1,5;")
WRITTEN = (*NO_NUMBERS_IN_TEXT, *map(str, NUMBERS), *TEXTS)
"""For files of text."""

YAML_LINES = (
    *(
        "x: 2001-99-99",
        "x: 0b_",
        "x: !!int abc",
        "x: " + "9" * 5000,
        "x: " + "[" * 2000,
        "? [a, b]\n: 1",
        "<<: 5",
        "x: *a",
    ),
    *(
        "x: !!python/object/apply:os.mkdir [exploded]",
        "x: !!binary zz",
        "x: !!timestamp zz",
        "%YAML 9.9",
        "\t- x",
        "---\n---",
    ),
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")),
)


@dataclass(frozen=True)
class Change:
    """One mutation."""

    keys: Keys
    """Where in the tree."""
    kind: str
    """`replace`, `remove`, `repeat`, `rename` or `swap`."""
    value: Any = None

    @property
    def path(self) -> str:
        return ".".join(map(str, self.keys))

    def is_no_number(self, pattern: str) -> bool:
        """Whether a number, at the places that match, was replaced by what is none."""
        return (
            self.kind == "replace"
            and any(self.value is value for value in (*NO_NUMBERS, *NO_NUMBERS_IN_TEXT))
            and re.fullmatch(pattern, self.path) is not None
        )


def places(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value of a tree of mappings and lists, and the keys that lead to it."""
    if keys:
        yield keys, tree
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*keys, key))


def change_tree(rng: Random, tree: Any, *, values: tuple[Any, ...] = HOSTILE, numbers: str = "-") -> Change:
    """Changes one place of a tree; in one of four cases a number, at places that match `numbers`, to what is none."""
    here = [keys for keys, _ in places(tree)]
    matching = [keys for keys in here if re.fullmatch(numbers, ".".join(map(str, keys)))]
    wrong = bool(matching) and rng.random() < 0.25
    keys, values = rng.choice(matching if wrong else here), NO_NUMBERS if wrong else values
    owner = tree
    for key in keys[:-1]:
        owner = owner[key]
    last = keys[-1]
    kind = rng.choices(("replace", "remove", "repeat", "rename", "swap"), (60, 15, 10, 10, 5))[0]
    kind = "replace" if wrong else kind
    if kind == "remove":
        del owner[last]
    elif kind == "repeat" and isinstance(owner, list):
        owner.insert(int(last), copy.deepcopy(owner[last]))
    elif kind == "rename" and isinstance(owner, dict):
        owner[
            rng.choice(("zz", "", "a" * 1000, "class_path", "\0", last.upper() if isinstance(last, str) else "0"))
        ] = owner.pop(last)
    elif kind == "swap" and len(keys) > 1:
        other = rng.choice(list(places(tree)))[1]
        owner[last] = copy.deepcopy(other)
    else:
        value = rng.choice(values)
        owner[last] = copy.deepcopy(value)  # which a further change may change
        return Change(keys, "replace", value)
    return Change(keys, kind)


def change_bytes(rng: Random, raw: bytes) -> bytes:
    """Flips bits, cuts, repeats, or overwrites a part."""
    data = bytearray(raw)
    kind = rng.choice(("flip", "cut", "overwrite", "repeat", "prefix", "empty"))
    at = rng.randrange(len(data)) if data else 0
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 3, 20))):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "overwrite":
        end = at + rng.choice((1, 2, 4, 8, 64))
        data[at:end] = rng.choice((b"\xff", b"\x00", b"\x80", b"9"))[0:1] * (end - at)
    elif kind == "repeat":
        data[at:at] = data[at : at + rng.choice((1, 16, 1000))] * rng.choice((1, 3, 100))
    elif kind == "prefix":
        data[0:0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"%!PS\n", b"\x1f\x8b", b"PK\x03\x04", b"\n\n"))
    else:
        data.clear()
    return bytes(data)


def dump_json(tree: Any) -> str:
    return json.dumps(tree).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)


def change_json(rng: Random, text: str, numbers: str = "-") -> tuple[str, Change | None]:
    """JSON, or lines of it, changed in one place or, rarely, in more."""
    lines = text.splitlines() if text.startswith("{") and text.count("\n{") else [text]
    index = rng.randrange(len(lines))
    tree = json.loads(lines[index])
    changes = [
        change_tree(rng, tree, numbers=numbers) for _ in range(rng.choice((1, 1, 1, 2, 3))) if list(places(tree))
    ]
    lines[index] = dump_json(tree)
    return "\n".join(lines), changes[0] if len(changes) == 1 else None


def change_yaml(rng: Random, text: str) -> tuple[str, Change | None]:
    if rng.random() < 0.3:
        lines = text.splitlines()
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(YAML_LINES))
        return "\n".join(lines), None
    tree = yaml.safe_load(text)
    change = change_tree(rng, tree)
    return yaml.safe_dump(tree).replace(DEEP, "[" * 2000 + "]" * 2000), change


def change_xml(rng: Random, text: str) -> tuple[str, Change | None]:
    """XML, changed in one place; keys are the tags of an element and its parent, or a tag and an attribute."""
    change: Change | None = None
    if rng.random() < 0.1:
        repeated = "".join(f"<!ENTITY {b} '{10 * ('&' + a + ';')}'>" for a, b in zip("abcdefghi", "bcdefghij"))
        entities = rng.choice(("<!ENTITY j SYSTEM 'file:///etc/passwd'>", "<!ENTITY a '1'>" + repeated))
        return f"<!DOCTYPE x [{entities}]>" + text.replace("</", "&j;</", 1), None
    root = ElementTree.fromstring(text)
    parents = [(parent, child) for parent in root.iter() for child in parent]
    parent, child = rng.choice(parents)
    kind = rng.choice(("text", "text", "text", "attribute", "remove", "repeat", "tag", "deep"))
    value = rng.choice(WRITTEN)
    written = re.sub("[^\\x20-\\ud7ff\n]", "", value)
    if kind == "text":
        parent, child = rng.choice([(parent, child) for parent, child in parents if not len(child)])
        child.text, change = written, Change((parent.tag, child.tag), "replace", value)
    elif kind == "attribute":
        owners = [element for element in root.iter() if element.attrib] or [child]
        owner = rng.choice(owners)
        name = rng.choice(list(owner.attrib) or ["x"])
        owner.set(name, written)
        change = Change((owner.tag, name), "replace", value)
    elif kind == "remove":
        parent.remove(child)
    elif kind == "repeat":
        parent.append(child)
    elif kind == "tag":
        child.tag = rng.choice(("zz", "object", "annotation", child.tag.upper()))
    else:
        return text.replace("</", "<a>" * 20_000 + "</a>" * 20_000 + "</", 1), None
    return ElementTree.tostring(root, encoding="unicode"), change


def change_lines(rng: Random, text: str, separator: str) -> tuple[str, Change | None]:
    """Lines of values: one value, or one line, changed; keys are the line and the column."""
    change: Change | None = None
    lines = text.splitlines() or [""]
    at = rng.randrange(len(lines))
    kind = rng.choice(("value", "value", "value", "remove", "repeat", "more", "fewer", "quote"))
    values = lines[at].split(separator)
    if kind == "remove":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "quote":
        lines[at] = f'"{lines[at]}'
    else:
        if kind == "value":
            change = Change((at, rng.randrange(len(values))), "replace", rng.choice(WRITTEN))
            values[int(change.keys[1])] = change.value
        elif kind == "more":
            values += values[: rng.randint(1, len(values))]
        else:
            del values[rng.randrange(len(values)) :]
        lines[at] = separator.join(values)
    return "\n".join(lines) + "\n", change


def change_file(rng: Random, path: Path, numbers: str = "-") -> Change | None:
    """Changes a file by what it holds; bytes in one of six cases. The change, if it is one of one value."""
    raw = path.read_bytes()
    change: Change | None = None
    if rng.random() < 1 / 6 or path.suffix in (".png", ".jpg", ".tar", ".arrow", ""):
        path.write_bytes(change_bytes(rng, raw))
    elif path.suffix == ".gz":
        inner = change_bytes(rng, gzip.decompress(raw))
        if rng.random() < 0.05:
            inner += bytes(300_000_000)
        path.write_bytes(gzip.compress(inner, 1))
    else:
        text = raw.decode()
        if path.suffix in (".json", ".jsonl"):
            text, change = change_json(rng, text, numbers)
        elif path.suffix in (".yaml", ".yml"):
            text, change = change_yaml(rng, text)
        elif path.suffix == ".xml":
            text, change = change_xml(rng, text)
        else:
            text, change = change_lines(rng, text, "," if path.suffix == ".csv" else " ")
        path.write_bytes(text.encode(errors="surrogatepass"))
    return change


def change_place(rng: Random, path: Path) -> None:
    """Puts something else in the place of a file."""
    path.unlink()
    kind = rng.choice(("nothing", "folder", "pipe", "link to itself", "device"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
