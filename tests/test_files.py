"""Text, JSON and YAML are read within bounds; what is wrong is one sentence with the file's name."""

import os
from pathlib import Path

import pytest

from vertebra.errors import VertebraError, shown
from vertebra.files import are_numbers, cell, is_number, parse_json, read_bytes, read_json, read_text, read_yaml

DEEP = 100_000


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "file"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_only_regular_files_within_the_limit_are_read(tmp_path):
    path = written(tmp_path, "12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(VertebraError, match="has 5 bytes; at most 4 are read"):
        read_bytes(path, 4)
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {"pipe": "a pipe or a device", ".": "is a folder", "missing": "No such file"}.items():
        with pytest.raises(VertebraError, match=reason):
            read_bytes(tmp_path / name)
    with pytest.raises(VertebraError, match="a pipe or a device"):
        read_bytes("/dev/zero")
    with pytest.raises(VertebraError, match="cannot be read"):
        read_bytes("a\0b")


def test_text_is_utf8_with_newlines_of_any_system(tmp_path):
    assert read_text(written(tmp_path, b"\xef\xbb\xbfa\r\nb\rc\n")) == "a\nb\nc\n"
    with pytest.raises(VertebraError, match=r"not a text file in UTF-8 .* at byte 1"):
        read_text(written(tmp_path, b"a\xff"))


def test_json_numbers_have_bounded_digits(tmp_path):
    content = read_json(written(tmp_path, f"[12, -{'9' * 19}, {'9' * 30}, {'9' * 400}]"))
    assert content == [12, -int("9" * 19), 1e30, float("inf")]
    assert [type(value) for value in content] == [int, int, float, float]


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"a": 1,\n}', "line 2: not valid JSON"), (b'"\xff"', "UTF-8"), ("[" * DEEP, "nested too deeply")],
)
def test_what_is_not_json_is_named(text, reason):
    with pytest.raises(VertebraError, match=f"^things.json.*{reason}"):
        parse_json(text, "things.json")


def test_yaml_has_strings_numbers_lists_and_mappings(tmp_path):
    text = "a: [1, -2.5, 1e-3, 0x10, 12:30, yes, 2020-13-45, .inf]\nb: {c: true, d: null, e: 'true', f: ~}\n3: x\n"
    content, node = read_yaml(written(tmp_path, text))
    assert content == {
        "a": [1, -2.5, 0.001, "0x10", "12:30", "yes", "2020-13-45", float("inf")],
        "b": {"c": True, "d": None, "e": "true", "f": None},
        3: "x",
    }
    assert [key.start_mark.line for key, _ in node.value] == [0, 1, 2]
    assert read_yaml(written(tmp_path, "")) == (None, None)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: [", "line [23]: not valid YAML"),
        ("a: !!int abc", "line 1.*'abc' is no int"),
        ("a: !!python/object/apply:os.system [ls]", "line 1.*tag"),
        ("a: " + "[" * 200 + "]" * 200, "more than 100 levels"),
        ("a: " + "[" * DEEP, "nesting depth|more than 100 levels"),
        (BOMB, "aliases repeat too much"),
        ("a: &a [*a]", "inside of what it stands for"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_named(tmp_path, text, reason):
    path = written(tmp_path, text)
    with pytest.raises(VertebraError, match=rf"^{path}.*{reason}"):
        read_yaml(path)


def test_values_in_messages_are_bounded_and_on_one_line():
    assert shown("a\nb") == r"'a\nb'"
    for value in (
        "x" * 10_000,
        list(range(10_000)),
        [[[["deep"] * 99] * 99] * 99],
        10**4_000,
        {i: i for i in range(999)},
    ):
        assert len(shown(value)) <= 80


@pytest.mark.parametrize("value", [True, "1", None, [], float("nan"), float("inf"), -float("inf"), 1e300, 10**400])
def test_what_is_no_number(value):
    assert not is_number(value)
    assert not are_numbers([1, value])
    assert not are_numbers([value, 1.5])


def test_numbers():
    assert is_number(0)
    assert is_number(-1e9)
    assert not is_number(2, 0, 1.5)
    assert are_numbers([])
    assert are_numbers((1, -2.5))
    assert not are_numbers("12")
    assert not are_numbers({1: 2})


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    assert cell(text) == f"'{text}"
    assert cell(f"a{text}") == f"a{text}"
