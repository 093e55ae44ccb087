"""`vertebra data` on label maps, and how it prints many problems of one kind."""

import json

import numpy as np
import pytest
from PIL import Image

from vertebra.cli.data import _condensed

LABELS = np.zeros((4, 5), np.uint8)
LABELS[2:] = 1


@pytest.fixture
def road(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["road", "sky", "car"]}))
    for split, count in (("train", 3), ("val", 1)):
        for i in range(count):
            add(tmp_path, split, f"{i}", LABELS)
    return tmp_path


def add(folder, split, name, labels):
    pixels = np.random.default_rng(len(list(folder.rglob("*")))).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    for path, array in ((f"images/{split}/{name}.png", pixels), (f"labels/{split}/{name}.png", labels)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / path)


def printed(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


def test_shares_of_classes(road, run_vertebra):
    add(road, "train", "ignored", np.full((4, 5), 255, np.uint8))
    add(road, "val", "car", 2 * LABELS)
    out = printed(run_vertebra("data", road))
    assert "road 37.50% 3 50.00% 2" in out  # 3 of 4 images of train, half of their pixels
    assert "car 0.00% 0 25.00% 1" in out
    assert "(ignored) 25.00% 1 0.00% 0" in out
    assert "1 of 3 classes have no pixel in train: car" in out
    assert f"problem: {road}/images/train/ignored.png: every pixel of its label map is ignored." in out
    assert "height: 4 to 4 pixels, median 4" in out
    assert out[-1] == "6 images read, 1 problems"


def test_many_problems_of_one_kind_are_counted(road, run_vertebra):
    for i in range(25):
        labels = LABELS.copy()
        labels[i % 4, 0] = 7 + i
        add(road, "train", f"odd {i:02}", labels)
    add(road, "val", "small", LABELS[:2])
    out = [line for line in printed(run_vertebra("data", road)) if line.startswith(("problem", "..."))]
    expected = [f"odd 0{i}.png: the value {7 + i} in row {i % 4}, column 0 is of no class" for i in range(5)]
    assert [line.partition("labels/train/")[2].partition(";")[0] for line in out[:5]] == expected
    assert out[5] == "... and 20 more like it"
    assert "small.png: the label map is 2 x 5 pixels" in out[6]
    assert len(out) == 7


def test_problems_of_other_kinds_stay_in_their_order():
    alike = [f"data/{i}.png: the value {i} is of no class." for i in range(21)]
    other = ["data/x.png: cannot be decoded.", "data/y.png: the file is empty (0 bytes)."]
    assert list(_condensed(alike[:20] + other, "data")) == [f"problem: {text}" for text in alike[:20] + other]
    expected = [f"problem: {text}" for text in [other[0], *alike[:5]]]
    lines = list(_condensed([other[0], *alike, other[1]], "data"))
    assert lines == [*expected, "... and 16 more like it", f"problem: {other[1]}"]
