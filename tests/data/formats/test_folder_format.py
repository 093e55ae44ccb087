"""Folders of images to catalogues, and every sentence about what is wrong with them."""

import os
from operator import attrgetter
from pathlib import Path

import pytest

from vertebra.data import open_data
from vertebra.data.catalogue import Sample
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, read_image

LABEL = attrgetter("label")


def fill(folder: Path, *names: str) -> Path:
    """Empty files; formats look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(samples: list[Sample], folder: Path) -> list[tuple[str, int]]:
    return [(str(sample.image.relative_to(folder)), sample.label) for sample in samples]


def test_a_folder_per_class(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("b", "a", "c") for i in range(5)))
    catalogue = open_data(tmp_path)
    assert (catalogue.format, catalogue.path, catalogue.classes) == ("folder", str(tmp_path), ("a", "b", "c"))
    assert catalogue.counts("train", LABEL) == [4, 4, 4]
    assert catalogue.counts("val", LABEL) == [1, 1, 1]
    assert catalogue.notes == ["no val split: 20% of each class set apart with seed 0"]
    for samples in catalogue.splits.values():
        for path, label in named(samples, tmp_path):
            assert path.startswith(catalogue.classes[label])
        assert all(sample.target.path == str(sample.image) for sample in samples)


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "VALIDATION"), ("train", "valid")])
def test_folders_of_splits(tmp_path, train, val):
    fill(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{val}/a/3.png", f"{val}/b/4.png", "extra/x.png")
    catalogue = open_data(tmp_path)
    assert named(catalogue.split("train"), tmp_path) == [(f"{train}/a/1.png", 0), (f"{train}/b/2.png", 1)]
    assert named(catalogue.split("val"), tmp_path) == [(f"{val}/a/3.png", 0), (f"{val}/b/4.png", 1)]
    assert catalogue.notes == ["ignored beside the splits: extra"]


def test_a_val_split_may_lack_classes(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", "val/c/4.png")
    assert open_data(tmp_path).counts("val", LABEL) == [0, 0, 1]


def test_a_test_split_stands_in_for_val(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    catalogue = open_data(tmp_path)
    assert named(catalogue.split("val"), tmp_path) == [("test/a/3.png", 0)]
    assert "test" not in catalogue.splits
    assert catalogue.notes == ["no val split: the test split is used as val"]


def test_test_and_val_stay_apart(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png")
    assert {name: len(samples) for name, samples in open_data(tmp_path).splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_hidden_folders_and_other_files_are_ignored(tmp_path):
    fill(tmp_path, ".cache/x.png", "a/1.png", "a/.thumbs/1.png", "a/notes.txt", "a/deep/2.JPG", "b/3.png", "b/4.png")
    catalogue = open_data(tmp_path)
    assert catalogue.classes == ("a", "b")
    assert sum(len(samples) for samples in catalogue.splits.values()) == 4


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a/1.png", "b/readme.txt"], r"class folder .*b holds no images \(\.jpg, .*\): add some, or remove"),
        (
            ["train/1.png", "train/2.png"],
            r"train has no class folders but 2 loose images; put the images of each class",
        ),
        (["train/a/1.png", "train/b/2.png", "val/bb/3.png"], r"bb is a class that the train split does not have"),
        (["train/cat/1.png", "train/dog/2.png", "val/cats/3.png"], r"Did you mean 'cat'\?"),
    ],
)
def test_invalid_folders_are_explained(tmp_path, files, sentence):
    fill(tmp_path, *files)
    with pytest.raises(VertebraError, match=sentence):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"), [("test", "test"), ("val", "val"), ("Validation", "val"), ("train", "train")]
)
def test_the_folder_of_one_split_alone(tmp_path, name, split):
    fill(tmp_path, f"{name}/a/1.png", f"{name}/b/2.png")
    catalogue = read(tmp_path)
    assert (catalogue.classes, set(catalogue.splits)) == (("a", "b"), {split})


def test_a_class_may_be_called_test(tmp_path):
    fill(tmp_path, "test/1.png", "other/2.png")
    catalogue = read(tmp_path)
    assert (catalogue.classes, set(catalogue.splits)) == (("other", "test"), {"train"})


def test_classes_may_be_called_train_and_test(tmp_path):
    fill(tmp_path, "train/1.png", "bus/2.png", "test/3.png")
    catalogue = read(tmp_path)
    assert (catalogue.classes, set(catalogue.splits)) == (("bus", "test", "train"), {"train"})


def test_folders_without_images_beside_a_split(tmp_path):
    fill(tmp_path, "test/a/1.png", "test/b/2.png", "docs/manual.txt")
    catalogue = read(tmp_path)
    assert (catalogue.classes, set(catalogue.splits)) == (("a", "b"), {"test"})
    assert catalogue.notes == ["ignored beside the splits: docs"]


def test_what_archives_of_a_mac_contain_is_ignored(tmp_path):
    fill(tmp_path, "test/a/1.png", "test/b/2.png", "__MACOSX/test/a/._1.png")
    assert set(read(tmp_path).splits) == {"test"}


def test_one_class_can_be_read(tmp_path):
    assert read(fill(tmp_path, "a/1.png")).classes == ("a",)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"\xff\xe9")
    fill(tmp_path, f"{name}/1.png", f"{name}/2.png", "b/1.png", "b/2.png")
    catalogue = open_data(tmp_path)
    assert catalogue.classes == ("b", name)


def test_what_lies_among_images_and_is_none(tmp_path):
    """Links in a circle are not followed, folders are not taken for images."""
    fill(tmp_path, "a/1.png", "b/1.png", "b/x.png/2.txt")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    catalogue = read(tmp_path)
    assert [sample.image.name for sample in catalogue.splits["train"]] == ["1.png", "pipe.png", "self.png", "1.png"]
    for sample in catalogue.splits["train"][1:3]:
        with pytest.raises(UnreadableImage, match="there is no such file"):
            read_image(sample.image)
