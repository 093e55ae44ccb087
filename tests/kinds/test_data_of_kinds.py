"""Data that lacks what a kind of task needs: which tasks it fits is in the message."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vertebra import kinds
from vertebra.errors import VertebraError
from vertebra.kinds.base import listed_classes


def class_folders(folder: Path, *names: str) -> Path:
    for name in names:
        for i in range(2):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(folder / name / f"{i}.png")
    return folder


def coco(folder: Path, **fields) -> Path:
    """One image with one object, which has a box and the `fields`."""
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], **fields}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("category", "has boxes but no classes of whole images: train detection on it."),
        ("masks", "has boxes but no masks: train detection on it."),
        ("keypoints", "has boxes but no keypoints: train detection on it."),
    ],
)
def test_boxes_alone(tmp_path, kind, sentence):
    for path in (coco(tmp_path), tmp_path / "a.json"):
        for call in (kinds.find(kind).open, kinds.find(kind).read):
            with pytest.raises(VertebraError) as caught:
                call(path)
            assert str(caught.value) == f"{path} {sentence}" or str(caught.value).endswith(f"a.json {sentence}")


def test_masks_and_boxes(tmp_path):
    coco(tmp_path, segmentation=[[1, 1, 5, 1, 5, 5, 1, 5]])
    for kind in ("boxes", "masks"):
        assert kinds.find(kind).read(tmp_path).has == {"boxes", "masks"}
    with pytest.raises(
        VertebraError, match="has boxes and masks but no keypoints: train detection or refinement or instance on it"
    ):
        kinds.find("keypoints").read(tmp_path)


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_classes_of_whole_images(tmp_path, kind):
    class_folders(tmp_path, "a", "b")
    with pytest.raises(VertebraError, match=f"has classes of whole images but no {kind}: train classification on it"):
        kinds.find(kind).open(tmp_path)


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    class_folders(tmp_path / "folder", "a")
    (tmp_path / "list.csv").write_text("path,label\nfolder/a/0.png,a\nfolder/a/1.png,a\n")
    for path in (tmp_path / "folder", tmp_path / "list.csv"):
        with pytest.raises(VertebraError, match=r"has one class only \('a'\); a classifier needs two or more"):
            kinds.find("category").open(path)


def test_the_built_in_shapes_fit_every_kind(monkeypatch):
    from vertebra.data.formats import shapes

    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1})
    for name in kinds.names():
        kind = kinds.find(name)
        if not kind.reads_images:
            continue
        catalogue = kind.open("shapes")
        assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 2, "val": 1}
        for sample in catalogue.split("train"):
            assert getattr(sample.load_target(sample.size), kind.target_field) is not None


def test_tables_of_very_many_classes_list_the_most_frequent(monkeypatch):
    monkeypatch.setattr("vertebra.kinds.base.MAX_ROWS", 2)
    assert listed_classes([[1, 5], [0, 0]]) == ([0, 1], [])
    assert listed_classes([[1, 5, 0, 2], [0, 0, 9, 0]]) == ([1, 2], [0, 3])
