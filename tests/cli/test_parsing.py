"""Options from dataclasses: help, nested groups, values by their types, config files."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from vertebra.cli.parsing import explicit_options, option, parse, parser, read_config
from vertebra.errors import VertebraError


@dataclass(frozen=True)
class Anchors:
    scale: float = 8.0
    """Side of the anchors in strides."""
    ratios: tuple[float, ...] = (0.5, 1.0)
    """Height / width."""


@dataclass(frozen=True)
class Base:
    backbone: str = "resnet50"
    """Name, 100% of it."""


@dataclass(frozen=True)
class Config(Base):
    anchors: Anchors = Anchors(scale=4.0)
    """Anchor boxes"""
    undocumented: Anchors = Anchors()
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the backbone."""


@dataclass
class Options:
    save: str | None = None
    """Folder."""
    strict: bool = False
    """Stop."""
    aligned: bool = True
    """Align."""
    count: int = 3
    """Number."""
    rate: float | None = None
    """Rate."""
    kind: Literal["sum", "mean"] = "sum"
    """Kind."""


@pytest.fixture
def arguments():
    result = parser("train x", "Trains.")
    result.add_option("config", "File.")
    result.add_class_arguments(Options)
    result.add_class_arguments(Config, "model")
    return result


def test_help(arguments):
    text = " ".join(arguments.format_help().split())
    assert "Options(" not in text
    assert "Anchors(" not in text
    for heading in ("options of --model:", "Anchor boxes:", "options of --model.undocumented:"):
        assert heading in text
    assert "--model.backbone TEXT Name, 100% of it. (default: resnet50)" in text
    assert "--model.anchors.scale NUMBER Side of the anchors in strides. (default: 4.0)" in text
    assert "--model.anchors.ratios [...] Height / width. (default: [0.5, 1.0])" in text
    assert "--strict Stop. --aligned {true,false} Align. (default: true)" in text
    assert "--kind {sum,mean} Kind. (default: sum)" in text
    assert "--rate NUMBER Rate. --kind" in text
    arguments.set_defaults({"model": {"anchors": {"scale": 2.0}}, "count": 0, "no_option": 1})
    text = " ".join(arguments.format_help().split())
    assert "in strides. (default: 2.0)" in text
    assert "Number. (default: 0)" in text


def test_nested_groups(arguments):
    values = parse(arguments, ["--model.anchors.scale=2", "--model.options.depth=3", "--strict", "--count", "-5"])
    assert values.model.anchors.scale == 2
    assert values.model.anchors.ratios == (0.5, 1.0)
    assert values.model.undocumented.scale == 8
    assert values.model.options == {"depth": 3}
    assert values.strict is True
    assert values.aligned is True
    assert values.count == -5


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--model.anchors.ratios=1,2.5"], "model.anchors.ratios", [1, 2.5]),
        (["--model.anchors.ratios", "[1, 2]"], "model.anchors.ratios", [1, 2]),
        (["--model.anchors.ratios=(1,)"], "model.anchors.ratios", [1]),
        (["--model.options={a: {b: 1}, c: [x]}"], "model.options", {"a": {"b": 1}, "c": ["x"]}),
        (["--model.options.a.b=1", "--model.options.a.c=x"], "model.options", {"a": {"b": 1, "c": "x"}}),
        (["--strict", "false"], "strict", False),
        (["--aligned=False"], "aligned", False),
        (["--rate=1e-3"], "rate", 0.001),
        (["--rate=null"], "rate", None),
        (["--save=null"], "save", None),
        (["--save=1.0"], "save", "1.0"),
        ([f"--count={2**70}"], "count", 2**70),
        (["--count=1", "--count=2"], "count", 2),
    ],
)
def test_values(arguments, words, name, value):
    assert explicit_options(arguments, words) == {name: value}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--model.anchors.scal=2",
            "--model.anchors.scal is not an option of vertebra train x. Did you mean '--model.anch",
        ),
        ("--model.anchor.scale=2", "Did you mean '--model.anchors.scale'?"),
        ("--model.anchors.scale.x=2", "--model.anchors.scale.x is not an option"),
        (
            "--model.anchors=2",
            "--model.anchors is not an option of vertebra train x. Its options are --model.anchors.NAME=",
        ),
        ("--rat", "is not an option of vertebra train x. Did you mean '--rate'?"),
        ("--qqq", "--qqq is not an option of vertebra train x. `vertebra train x --help` lists them."),
        ("--model.anchors.scale=big", "model.anchors.scale is 'big'; it must be a number."),
        ("--rate=0.1.2", "rate is '0.1.2'; it must be a number or null."),
        ("--rate=.nan", "rate is nan; it must be a number or null."),
        ("--count=1.5", "count is 1.5; it must be an integer."),
        ("--count=[1", "not valid YAML"),
        ("--count=", "--count needs a value."),
        ("--count", "--count needs a value: --count=INTEGER."),
        ("--count --strict", "--count needs a value: --count=INTEGER."),
        ("--strict=maybe", "strict is 'maybe'; it must be a boolean."),
        ("--kind=max", "kind is 'max'; there are sum, mean."),
        ("--model.options=3", "model.options is 3; it must be a mapping"),
        ("--model.options={a:&b[*b]}", "--model.options"),
        ("photos", "vertebra train x does not take photos: options begin with --."),
        ("batch=3", "vertebra train x does not take batch=3: options begin with --."),
        (f"--{'q' * 500}", "is not an option of vertebra train x."),
    ],
)
def test_mistakes(arguments, words, sentence):
    for function in (parse, explicit_options):
        with pytest.raises(VertebraError) as error:
            function(arguments, words.split())
        assert sentence in str(error.value)
        assert len(str(error.value)) < 250


def test_positional_arguments(arguments):
    arguments.add_argument("checkpoint", help="First.")
    arguments.add_argument("images", nargs="+", help="Rest.")
    values = parse(arguments, ["run", "--count=2", "a.png", "--", "-b.png"])
    assert (values.checkpoint, values.images, values.count) == ("run", ["a.png", "-b.png"], 2)
    for words, missing in (([], "CHECKPOINT"), (["run"], "IMAGES")):
        with pytest.raises(VertebraError, match=f"vertebra train x needs {missing}"):
            parse(arguments, words)


def test_the_command_line_wins_over_the_config(arguments, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("save: a\nmodel:\n  anchors:\n    ratios: [1, 2]\n  options:\n    depth: {stage: 3}\n")
    words = ["--save=b", "--model.anchors.scale", "4", "--model.options.width=1"]
    assert explicit_options(arguments, words, read_config(str(file))) == {
        "save": "b",
        "model.anchors.ratios": [1, 2],
        "model.anchors.scale": 4,
        "model.options": {"depth": {"stage": 3}, "width": 1},
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "model:\n  anchors:\n    rats: [1]\n",
            "line 3: there is no option 'model.anchors.rats'. Did you mean 'model.",
        ),
        ("model:\n  anchors: 3\n", "line 2: model.anchors is 3; it is a group of options."),
        ("save: a\ncount: many\n", "line 2: count is 'many'; it must be an integer."),
        ("save: a\nkind: max\n", "line 2: kind is 'max'; there are sum, mean."),
        ("count: !!python/object/apply:os.system ['true']\n", "line 1: not valid YAML"),
        ("count: 2026-13-45\n", "line 1: count is '2026-13-45'"),
    ],
)
def test_mistakes_in_a_config(arguments, tmp_path, text, sentence):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(VertebraError) as error:
        explicit_options(arguments, [], read_config(str(file)))
    assert sentence in str(error.value)


@pytest.mark.parametrize("place", ["config", "flag", "key"])
def test_nothing_that_a_value_names_is_imported(arguments, tmp_path, monkeypatch, place):
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hostile = "[{class_path: hostile_module.X, init_args: {a: 1}}]"
    (tmp_path / "config.yaml").write_text(f"model: {{options: {{depths: {hostile}}}}}\n")
    words = {
        "config": [],
        "flag": [f"--model.options={{depths: {hostile}}}"],
        "key": [f"--model.options.depths={hostile}"],
    }
    config = read_config(str(tmp_path / "config.yaml")) if place == "config" else None
    options = explicit_options(arguments, words[place], config)
    assert options == {"model.options": {"depths": [{"class_path": "hostile_module.X", "init_args": {"a": 1}}]}}
    assert "hostile_module" not in sys.modules


def test_no_value_names_a_file_to_read(arguments, tmp_path):
    (tmp_path / "values.yaml").write_text("{scale: 1}")
    for flag in ("--model.options", "--count", "--model.anchors.ratios"):
        for word in (str(tmp_path / "values.yaml"), f"@{tmp_path / 'values.yaml'}"):
            with pytest.raises(VertebraError):
                explicit_options(arguments, [f"{flag}={word}"])


def test_the_value_of_one_option():
    assert option(["--a=1", "--b", "2"], "a") == "1"
    assert option(["--a=1", "--b", "2"], "b") == "2"
    assert option(["--a=1", "--b", "2"], "c") == ""
