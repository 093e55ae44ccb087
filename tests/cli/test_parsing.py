"""Flags from dataclasses: help, nested groups, and the options that the user set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from vertebra.cli.parsing import check_config, explicit_options, option, parse, parser
from vertebra.errors import VertebraError


@dataclass(frozen=True)
class Anchors:
    scale: float = 8.0
    """Side of the anchors in strides."""
    ratios: tuple[float, ...] = (0.5, 1.0)
    """Height / width."""


@dataclass(frozen=True)
class Config:
    backbone: str = "resnet50"
    """Name."""
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


@pytest.fixture
def arguments():
    result = parser("train x", "Trains.")
    result.add_argument("--config", action="config")
    result.add_class_arguments(Options)
    result.add_class_arguments(Config, "model")
    return result


def test_help_shows_no_signature(arguments):
    text = arguments.format_help()
    assert "Options(" not in text
    assert "Anchors(" not in text
    for heading in ("options of vertebra train x:", "options of --model:", "Anchor boxes:"):
        assert heading in text
    assert "options of --model.undocumented:" in text
    assert "Side of the anchors in strides. (type: float, default: 4.0)" in " ".join(text.split())


def test_nested_groups(arguments):
    values = parse(arguments, ["--model.anchors.scale=2", "--model.options.depth=3", "--strict"])
    assert values.model.anchors.scale == 2
    assert values.model.anchors.ratios == (0.5, 1.0)
    assert values.model.undocumented.scale == 8
    assert values.model.options == {"depth": 3}
    assert values.strict is True


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "--model.anchors.scal=2",
            "--model.anchors.scal is not an option of vertebra train x. Did you mean",
        ),
        (
            "--model.anchors.scale=big",
            "--model.anchors.scale: Expected a float. Got value: big. vertebra train x",
        ),
        ("--model.anchor.scale=2", "Did you mean '--model.anchors.scale'?"),
        ("--model.anchors.scale.x=2", "--model.anchors.scale.x is not an option"),
    ],
)
def test_wrong_nested_flags(arguments, word, sentence):
    for function in (parse, explicit_options):
        with pytest.raises(VertebraError) as error:
            function(arguments, [word])
        assert sentence in str(error.value)


def test_explicit_options(arguments, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model:\n  anchors:\n    ratios: [1, 2]\n  options:\n    depth: 3\n")
    arguments.set_defaults({"model.backbone": "swin_tiny"})
    assert explicit_options(arguments, []) == {}
    options = explicit_options(arguments, [f"--config={config}", "--model.anchors.scale", "4", "--strict"])
    assert options == {
        "strict": True,
        "model": {"anchors": {"ratios": (1.0, 2.0), "scale": 4.0}, "options": {"depth": 3}},
    }
    assert parse(arguments, []).model.backbone == "swin_tiny"


def test_the_command_line_wins_over_the_config(arguments, tmp_path):
    (tmp_path / "config.yaml").write_text("save: a\n")
    assert explicit_options(arguments, [f"--config={tmp_path / 'config.yaml'}", "--save=b"]) == {"save": "b"}


def test_keys_of_a_config(arguments, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model:\n  anchors:\n    scale: 2\n  options:\n    depth:\n      stage: 3\n")
    assert check_config(config, arguments)["model"]["options"] == {"depth": {"stage": 3}}
    config.write_text("model:\n  anchors:\n    rats: [1]\n")
    with pytest.raises(VertebraError, match=r"line 3: there is no option 'model\.anchors\.rats'\. Did you mean 'model"):
        check_config(config, arguments)


def test_the_value_of_one_option():
    assert option(["--a=1", "--b", "2"], "a") == "1"
    assert option(["--a=1", "--b", "2"], "b") == "2"
    assert option(["--a=1", "--b", "2"], "c") == ""
