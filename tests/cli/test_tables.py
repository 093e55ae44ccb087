"""Tables fit 80 columns and lose nothing."""

import io
import json

import pytest
from rich.console import Console

from vertebra import kinds, tasks
from vertebra.cli.evaluate import Result, _print
from vertebra.cli.tables import side_by_side
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.ledger import entries
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Target


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def check(text: str) -> str:
    """The text, all of whose lines have at most 80 columns and are not cut off."""
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    return text


def rendered(tables, width=80) -> str:
    console = Console(width=width, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_every_backbone_with_all_numbers(run_vertebra):
    text = check(run_vertebra("models"))
    joined = " ".join(text.split())
    for entry in entries():
        assert f" {entry.name} {entry.parameters:,} {entry.macs / 1e9:.3f} {entry.size} " in joined
    assert all(f"{stride}:{channels}" in text for entry in entries() for stride, channels in entry.levels)


def test_every_checkpoint(run_vertebra):
    words = set(check(run_vertebra("models", "--weights")).split())
    names = [card["name"] for card in json.loads(run_vertebra("models", "--weights", "--json"))]
    assert names
    assert set(names) <= words  # none is folded


def test_every_method(run_vertebra):
    words = set(check(run_vertebra("methods")).split())
    assert {method["method"] for method in tasks.known_methods()} <= words


def test_the_ledger(run_vertebra):
    text = check(run_vertebra("verify", "resnext101_32x8d", "efficientnetv2_b0", "--counts"))
    assert "88,791,336" in text
    assert "counts equal" in text


CLASSES = ("nucleus", "a class of a very long name that has no room in eighty columns", "tiny")


def detections() -> dict[str, list]:
    keys = ("mask_ap", "mask_ap50", "boundary_ap", "boundary_ap50", "box_ap", "box_ap50", "precision", "recall")
    columns = {key: [0.2114 + 0.01 * i, 0.5, None] for i, key in enumerate(keys)}
    return columns | {"objects": [123456, 7, 0]}


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_columns_that_have_no_room_are_in_further_tables(width):
    columns = {key.replace("_", " "): [str(value) for value in values] for key, values in detections().items()}
    tables = list(side_by_side(CLASSES, columns, width, "class"))
    assert [column.header for table in tables for column in table.columns if column.header != "class"] == [*columns]
    assert (len(tables) == 1) == (width >= 120)
    text = rendered(tables, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    words = text.split()
    for values in columns.values():
        assert all(value in words for value in values)
    assert words.count("nucleus") == len(tables)


def test_an_evaluation(capsys):
    evaluation = Evaluation({"per_class": detections(), "mask_ap": 0.25}, [{}], classes=CLASSES)
    evaluation.names = {"mask_ap": "mask AP"}
    _print(Result(kinds.find("masks"), evaluation, [], "run on data", []))
    words = check(capsys.readouterr().out).split()
    assert {"nucleus", "0.211", "0.281", "123456", "0.2500", "–"} <= set(words)


@pytest.mark.parametrize("kind", ["category", "boxes"])
def test_a_dataset_of_three_splits(kind):
    target = Target(label=None)
    catalogue = Catalogue(
        "a/folder", "coco", CLASSES, {split: [Sample("a.png", target)] * 200 for split in ("train", "val", "test")}
    )
    catalogue.has = frozenset({"boxes", "label"})
    counts = [119999, 12, 0]
    catalogue.counts = lambda split, labels: counts
    text = rendered(kinds.find(kind).tables(catalogue, {}))
    check(text)
    words = text.split()
    assert words.count("119999") == 3
    assert "nucleus" in words
