"""Options: from nested mappings to built dataclasses, layer by layer."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from vertebra import options
from vertebra.errors import VertebraError, in_range
from vertebra.options import build, differing, flatten, names, plain, training_only
from vertebra.structures import KeypointSchema


@dataclass(frozen=True)
class Anchors:
    scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        in_range("anchors.scale", self.scale, 0)


@dataclass(frozen=True)
class Config:
    backbone: str = "resnet50"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    anchors: Anchors = Anchors(scale=4.0)  # not the default of the group
    stages: tuple[tuple[float, ...], ...] = ((1.0, 2.0),)
    keypoints: KeypointSchema = KeypointSchema(("nose",))
    dropout: float = training_only(0.0)


def test_defaults():
    assert build(Config) == Config()


def test_the_later_layer_wins():
    preset = {"anchors.scale": 2.0, "anchors.ratios": (1.0,), "backbone": "a"}
    shapes = {"anchors.scale": 3.0, "backbone": "b"}
    user = {"backbone": "c"}
    built = build(Config, preset, shapes, user)
    assert (built.anchors, built.backbone, built.dropout) == (Anchors(3.0, (1.0,)), "c", 0.0)


def test_what_equals_the_default_wins_too():
    assert build(Config, {"anchors.scale": 2.0}, {"anchors": {"scale": 4.0}}) == Config()
    assert build(Config, {"dropout": 0.5}, {"dropout": 0.0}).dropout == 0.0


def test_a_group_keeps_the_default_that_its_parent_has():
    assert build(Config, {"anchors.ratios": (1.0,)}).anchors == Anchors(4.0, (1.0,))
    assert build(Config, {"anchors": {"ratios": (1.0,)}}).anchors == Anchors(4.0, (1.0,))
    assert build(Config, {"anchors": Anchors(ratios=(1.0,))}).anchors == Anchors(8.0, (1.0,))  # as it was built


def test_all_ways_to_write_an_option_mean_the_same():
    expected = {"anchors.scale": 2.0}
    assert flatten(Config, {"anchors.scale": 2.0}) == flatten(Config, {"anchors": {"scale": 2.0}}) == expected
    assert flatten(Config, {"anchors": Anchors(2.0, (1.0,))}) == {"anchors.scale": 2.0, "anchors.ratios": (1.0,)}
    assert flatten(Config, {"backbone_options": {"depth": 2}}) == {"backbone_options": {"depth": 2}}  # is one option


def test_lists_become_the_tuples_that_they_were_before_json():
    given = {"stages": [[1, 2], [3, 4]], "anchors": {"ratios": [1.0]}, "backbone_options": {"depths": [1, 1]}}
    built = build(Config, given)
    assert built.stages == ((1, 2), (3, 4))
    assert built.anchors.ratios == (1.0,)
    assert built.backbone_options == {"depths": (1, 1)}


def test_a_config_comes_back_from_plain():
    config = Config(anchors=Anchors(2.0), keypoints=KeypointSchema(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2)))
    written = plain(config)
    assert written["anchors"] == {"scale": 2.0, "ratios": [0.5, 1.0, 2.0]}
    assert written["keypoints"]["skeleton"] == [[0, 1]]
    assert build(Config, written) == config


def test_names():
    assert names(Config) == [
        *("backbone", "backbone_options", "anchors.scale", "anchors.ratios", "stages", "keypoints", "dropout")
    ]
    assert set(names(Config)) - set(names(Config, training=False)) == {"dropout"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"bakbone": "x"}, r"the model has no option 'bakbone'; there are .*Did you mean 'backbone'\?"),
        ({"anchors": {"scal": 1.0}}, r"anchors has no option 'scal'; there are ratios, scale\. Did you mean 'scale'\?"),
        ({"anchors.scal": 1.0}, r"anchors has no option 'scal'.*Did you mean 'scale'\?"),
        ({"backbone.depth": 1}, r"the model has no option 'backbone.depth'"),
        ({"anchors": 8.0}, r"anchors is 8.0; it takes a mapping of its options: scale, ratios"),
        ({"anchors": {"scale": -1.0}}, r"anchors.scale is -1; it must be 0 or more"),
    ],
)
def test_mistakes_are_explained(given, sentence):
    with pytest.raises(VertebraError, match=sentence):
        build(Config, given)


def test_the_owner_is_named():
    with pytest.raises(VertebraError, match="atss has no option 'topk'"):
        flatten(Config, {"topk": 9}, "atss.")


def test_differing():
    config = Config(anchors=Anchors(2.0))
    same = {"anchors.scale": 2.0, "anchors.ratios": [0.5, 1.0, 2.0], "backbone": "resnet50"}
    assert differing(config, same) == {}
    assert differing(config, {"anchors": {"scale": 3.0}, "dropout": 0.0}) == {"anchors.scale": 3.0}
    assert options.changed(config, Config()) == {"anchors.scale": 2.0}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"backbone": 5}, "^backbone is 5; it must be a string"),
        ({"backbone_options": []}, "^backbone_options is .*; it must be a mapping from names"),
        ({"anchors": {"scale": "4"}}, "^anchors.scale is '4'; it must be a number"),
        ({"anchors.scale": True}, "^anchors.scale is True; it must be a number"),
        ({"anchors.scale": float("nan")}, "^anchors.scale is nan; it must be a number"),
        ({"anchors.ratios": (1, None)}, r"^anchors.ratios is \(1, None\); it must be a list of numbers"),
        ({"anchors.ratios": 1.0}, "^anchors.ratios is 1.0; it must be a list of numbers"),
        ({"stages": ((1.0,), 2.0)}, "^stages is .*; it must be a list of lists of numbers"),
        ({"keypoints": 5}, "^keypoints is 5; it must be a mapping"),
    ],
)
def test_types_are_checked(given, sentence):
    with pytest.raises(VertebraError, match=sentence):
        build(Config, given)


@dataclass(frozen=True)
class Several:
    size: tuple[int, int] = (1, 2)
    word: Literal["a", "b"] = "a"
    limit: int | None = None
    anything: Any = None


def test_types_in_words():
    for given, sentence in {
        ("size", (1,)): r"size is \(1,\); it must be 2 integers",
        ("size", (1, 2.0)): "it must be 2 integers",
        ("word", 5): "word is 5; it must be a string",
        ("limit", "a"): "limit is 'a'; it must be an integer or null",
    }.items():
        with pytest.raises(VertebraError, match=sentence):
            build(Several, dict([given]))
    assert build(Several, {"size": [np.int64(3), 4], "limit": None, "anything": object}).size == (3, 4)
