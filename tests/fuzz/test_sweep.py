"""A part of the sweep, and that it sees what is bad. By hand: `python -m tests.fuzz --cases 3000`."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import configs, datasets, mutate, sweep

from vertebra.cli import main
from vertebra.data.formats import formats
from vertebra.data.reading import read
from vertebra.errors import VertebraError

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as on Linux")

CASES = {"foreign": 3, "image": 4, "predict": 3, "description": 12}
"""Of a surface, where they are not 5."""


TRAINING = ("config", "run")
"""Surfaces whose cases train."""


def test_malformed_training_is_answered_in_one_sentence():
    """In a process of its own: one that is forked from this one may not compute gradients, if an earlier test has."""
    words = [sys.executable, "-m", "tests.fuzz", "--cases=4", "--surface", *TRAINING]
    swept = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "4 cases" in swept.stdout


@pytest.mark.parametrize("surface", [name for name in sweep.surfaces() if name not in TRAINING])
def test_malformed_input_is_answered_in_one_sentence(surface):
    bad = [outcome for outcome in sweep.sweep(surface, range(CASES.get(surface, 5)), seed=0) if outcome.bad]
    assert not bad, "\n\n".join(
        f"python -m tests.fuzz --surface {surface} --case {outcome.number}: {outcome.said}\n{outcome.bad}"
        for outcome in bad
    )


def test_every_format_is_swept(tmp_path):
    swept = set(datasets.FORMATS)
    for name, write in datasets.FORMATS.items():
        write(tmp_path / name)
        swept.add(read(tmp_path / name / datasets.PLACES.get(name, "")).format)
    assert {name for name, module in formats().items() if not getattr(module, "GENERATED", False)} <= swept


@pytest.mark.parametrize("format", datasets.FORMATS)
def test_unchanged_data_is_read(tmp_path, capsys, format):
    datasets.FORMATS[format](tmp_path / "data")
    assert main(["data", str(tmp_path / "data" / datasets.PLACES.get(format, ""))]) == 0
    assert "problem: " not in capsys.readouterr().out


def test_a_case_is_a_function_of_its_number(tmp_path):
    def files(folder: Path, number: int) -> dict[str, bytes]:
        folder.mkdir()
        sweep.surfaces()["voc"](Random(f"voc 0 {number}"), folder)
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    first, second = (files(tmp_path / name, 3) for name in "ab")
    assert first == second
    assert first != files(tmp_path / "c", 4)


def _refuse(sentence: str) -> None:
    raise VertebraError(sentence)


def _compute() -> None:
    while True:
        pass


JUDGED = {
    "": lambda: _refuse("this is wrong."),
    "KeyError: 'a bug'": lambda: {}["a bug"],
    "takes more than 0.2 s, or hangs": _compute,
    "ended or hung the process": lambda: os._exit(1),
    "MB of memory": lambda: _refuse(f"{len(b'x' * (100 << 20))} bytes."),
    "more than one line": lambda: _refuse("two\nlines."),
    "a sentence of 2,": lambda: _refuse("x" * 2000),
    "control characters": lambda: _refuse("\x1b[2J"),
    "passes over what is wrong": lambda: None,
    "ran code": lambda: Path("exploded").mkdir() or _refuse("this is wrong."),
    "exit status 1": lambda: sys.exit(1),
}


def test_what_is_bad_is_seen(monkeypatch):
    """Each of these actions is a case, in the order of its number."""
    actions = list(JUDGED.values())
    monkeypatch.setattr(sweep, "surfaces", lambda: {"own": own})
    monkeypatch.setattr(sweep, "SECONDS", 0.2)
    monkeypatch.setattr(sweep, "WAIT", 10.0)
    monkeypatch.setattr(sweep, "BYTES", 50 << 20)
    monkeypatch.setattr(sweep, "warm_up", lambda: None)

    numbers = list(range(len(actions)))
    randoms = [Random(f"own 0 {number}").random() for number in numbers]

    def own(rng: Random, folder: Path) -> sweep.Case:
        drawn = rng.random()
        return sweep.Case(actions[randoms.index(drawn)] if drawn in randoms else lambda: None, "it is nonsense")

    outcomes = list(sweep.sweep("own", numbers, 0))
    assert [outcome.number for outcome in outcomes] == numbers
    for outcome, expected in zip(outcomes, JUDGED, strict=True):
        assert expected in outcome.bad
        assert bool(expected) == bool(outcome.bad)


def test_trees_are_changed_in_every_way():
    kinds = set()
    for number in range(200):
        tree = {"a": [1, 2, {"b": 3}], "c": {"d": [4]}}
        before = repr(tree)
        change = mutate.change_tree(Random(number), tree)
        kinds.add(change.kind)
        assert repr(tree) != before or change.kind in ("swap", "replace", "rename")
    assert kinds == {"replace", "remove", "repeat", "rename", "swap"}
    assert mutate.Change(("a", 0), "replace", mutate.NO_NUMBERS[0]).is_no_number(r"a\.\d")
    assert not mutate.Change(("a", 0), "replace", 5).is_no_number(r"a\.\d")
    assert not mutate.Change(("b",), "replace", mutate.NO_NUMBERS[0]).is_no_number(r"a\.\d")


def test_the_settings_of_the_sweep_are_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    datasets.write_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(configs.CONFIG)
    assert main(["train", "classification", "--config=config.yaml"]) == 0
    assert (tmp_path / "run" / "best.safetensors").is_file()
