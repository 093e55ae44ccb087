"""Every word is the field's: names that the package must not use, and names that mean two things."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vertebra

ROOT = Path(vertebra.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Words that are part of a name, split at underscores and capitals.
BANNED_WORDS = {
    *("picture", "pictures", "film", "films", "truth", "truths", "found", "each", "own", "told", "said", "wanted"),
    *("lrf", "settle", "renorm", "walk"),
}
# Whole names.
BANNED_NAMES = {
    *("candidates_train", "candidates_test", "proposals_train", "proposals_test", "region_batch", "region_positive"),
    *("least_side", "rpn_nearest", "OneMap", "Coarser", "Results", "Scene", "Points", "BrokenPicture"),
}
USER_WORDS = re.compile(r"\b(picture|film)s?\b", re.IGNORECASE)


@cache
def words(name: str) -> list[str]:
    """`DetectionResults` and `detection_results` -> detection, results."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file defines: functions, classes, arguments, fields, and variables of any scope; with their line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):  # of loops and comprehensions too
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, 0
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


def strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Texts of a file: messages, help (the strings under fields), docstrings and keys."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}


def test_no_banned_names(trees):
    wrong = [
        f"{path}:{line} {name}"
        for path, tree in trees.items()
        for name, line in defined_names(tree)
        if name in BANNED_NAMES or BANNED_WORDS & set(words(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_banned_modules():
    wrong = [path for path in FILES if BANNED_WORDS & set(words(path.stem))]
    assert not wrong, wrong


def test_images_and_videos_are_called_so(trees):
    """In messages, help, docstrings and keys of files."""
    wrong = [
        f"{path}:{line} {text[:80]!r}"
        for path, tree in trees.items()
        for text, line in strings(tree)
        if USER_WORDS.search(text)
    ]
    assert not wrong, "\n".join(wrong)


PER_FILE = {"Config", "Options"}
"""Every method and family has its Config, and every command its Options."""


def test_one_class_of_one_name(trees):
    """Outside the backbones, where every file is a family by itself. A Protocol is named as what it describes."""
    places = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or path.startswith("backbones/") or node.name in PER_FILE:
                continue
            if not any(ast.unparse(base).startswith("Protocol") for base in node.bases):
                places[node.name].append(path)
    twice = {name: paths for name, paths in places.items() if len(paths) > 1 and not name.startswith("_")}
    assert not twice, twice


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def f(found): ...", "found"),
        ("for each in x: ...", "each"),
        ("y = [own for own in x]", "own"),
        ("class BrokenPicture: ...", "BrokenPicture"),
        ("class Config:\n    lrf: float = 0.1", "lrf"),
        ("self.truth_field = 1", "truth_field"),
        ("with a as said: ...", "said"),
        ("try: ...\nexcept E as told: ...", "told"),
        ("lambda wanted: 1", "wanted"),
        ("if (films := 1): ...", "films"),
    ],
)
def test_the_check_sees_them(code, name):
    names = [name for name, _ in defined_names(ast.parse(code))]
    assert [n for n in names if n in BANNED_NAMES or BANNED_WORDS & set(words(n))] == [name]
