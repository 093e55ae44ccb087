"""Folders of masks to samples, and a sentence for everything that can be wrong with them."""

from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data import open_data
from vertebra.data.reading import read
from vertebra.errors import VertebraError

LABELS = attrgetter("labels")


def save(path: Path, values: np.ndarray | None = None) -> Path:
    """A mask file, or an image of 10 x 8 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 10, 3), np.uint8) if values is None else values).save(path)
    return path


def block(x1: int, y1: int, x2: int, y2: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((8, 10), np.uint8)
    mask[y1:y2, x1:x2] = value
    return mask


def own_folders(folder: Path, *names: str) -> Path:
    for name in names:
        save(folder / name / "images" / f"{name}.png")
        save(folder / name / "masks" / "1.png", block(1, 2, 4, 5))
        save(folder / name / "masks" / "2.png", block(6, 0, 10, 3))
    return folder


def class_folders(folder: Path) -> Path:
    for name in ("a", "a_1", "b"):
        save(folder / "images" / f"{name}.png")
    save(folder / "masks" / "dog" / "a_1.png", block(1, 2, 4, 5))  # the whole name goes before the number
    save(folder / "masks" / "dog" / "a_2.png", block(0, 0, 1, 1))
    save(folder / "masks" / "cat" / "a_1_1.png", block(6, 0, 10, 3))
    return folder


def numbers(folder: Path) -> Path:
    values = block(1, 2, 4, 5, 3) + block(6, 0, 10, 3, 7)
    values[7, 0] = 7  # a second piece
    save(folder / "images" / "a.jpg")
    save(folder / "masks" / "a.png", values)
    return folder


def test_a_folder_for_each_image(tmp_path):
    own_folders(tmp_path, "p", "q", "r", "s", "t")
    catalogue = open_data(tmp_path, fields={"masks"})
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("masks", ("object",), {"boxes", "masks"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 4, "val": 1}
    assert catalogue.counts("val", LABELS) == [2]
    (sample,) = catalogue.split("val")
    target = sample.load_target((8, 10))
    assert target.boxes.tolist() == [[1, 2, 4, 5], [6, 0, 10, 3]]
    assert target.areas.tolist() == [9, 12]
    assert target.crowd.tolist() == [False, False]
    assert torch.equal(target.masks[0], torch.from_numpy(block(1, 2, 4, 5) > 0))
    assert (
        open_data(tmp_path, fields={"boxes"}).split("val")[0].load_target((8, 10)).boxes.tolist()
        == target.boxes.tolist()
    )


def test_opening_reads_no_mask(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was opened")

    own_folders(tmp_path, "p", "q")
    monkeypatch.setattr("vertebra.images.open_image", refuse)
    monkeypatch.setattr("vertebra.data.segments.open_image", refuse)
    assert len(open_data(tmp_path, fields={"masks"}).split("val")) == 1


def test_a_folder_for_each_class(tmp_path):
    catalogue = read(class_folders(tmp_path), fields={"masks"})
    assert catalogue.classes == ("cat", "dog")
    by_name = {sample.image.stem: sample for sample in catalogue.split("train")}
    assert by_name["a"].target.labels.tolist() == [1]
    assert by_name["a"].load_target((8, 10)).boxes.tolist() == [[0, 0, 1, 1]]
    assert by_name["a_1"].target.labels.tolist() == [0, 1]
    assert by_name["a_1"].load_target((8, 10)).boxes.tolist() == [[6, 0, 10, 3], [1, 2, 4, 5]]
    assert by_name["b"].load_target((8, 10)).masks.dense().shape == (0, 8, 10)
    assert by_name["b"].load_target((8, 10)).boxes.shape == (0, 4)


def test_numbers_in_one_file(tmp_path):
    catalogue = read(numbers(tmp_path), fields={"masks"})
    (sample,) = catalogue.split("train")
    assert sample.annotation_ids == (3, 7)
    target = sample.load_target((8, 10))
    assert target.boxes.tolist() == [[1, 2, 4, 5], [0, 0, 10, 8]]
    assert target.areas.tolist() == target.masks.areas().tolist() == [9, 13]


@pytest.mark.parametrize("write", [class_folders, numbers, lambda folder: own_folders(folder, "p")])
def test_folders_of_splits(tmp_path, write):
    for split in ("train", "val"):
        write(tmp_path / split)
    catalogue = open_data(tmp_path, fields={"masks"})
    assert set(catalogue.splits) == {"train", "val"}
    assert len(catalogue.split("val")) == len(catalogue.split("train"))


def test_a_mask_without_a_pixel_is_no_object(tmp_path):
    own_folders(tmp_path, "p")
    save(tmp_path / "p" / "masks" / "0.png", block(0, 0, 0, 0))
    (sample,) = read(tmp_path, fields={"masks"}).split("train")
    target = sample.load_target((8, 10))
    assert len(target.masks) == len(target.boxes) == len(target.labels) == len(target.crowd) == 2


def test_a_mask_of_another_size(tmp_path):
    own_folders(tmp_path, "p")
    wrong = save(tmp_path / "p" / "masks" / "0.png", np.ones((3, 4), np.uint8))
    (sample,) = read(tmp_path, fields={"masks"}).split("train")
    with pytest.raises(VertebraError, match=rf"{wrong}: a mask of 3 x 4 pixels lies on an image of 8 x 10"):
        sample.load_target((8, 10))
    numbers(tmp_path / "other")
    save(tmp_path / "other" / "images" / "b.png")
    save(tmp_path / "other" / "masks" / "b.png", np.ones((3, 4), np.uint8))
    (skipped,) = read(tmp_path / "other", fields={"masks"}).problems
    assert skipped.endswith("b.png is skipped: its masks are 3 x 4 pixels, it is 8 x 10 (height x width).")


def test_files_of_no_image_are_skipped(tmp_path):
    class_folders(tmp_path / "a")
    save(tmp_path / "a" / "masks" / "dog" / "zzz_1.png", block(0, 0, 1, 1))
    (skipped,) = read(tmp_path / "a", fields={"masks"}).problems
    assert "zzz_1.png is skipped: no image in" in skipped
    numbers(tmp_path / "b")
    save(tmp_path / "b" / "masks" / "zzz.png", block(0, 0, 1, 1))
    save(tmp_path / "b" / "images" / "bare.png")
    save(tmp_path / "b" / "images" / "a.png")
    twice, mask, bare = read(tmp_path / "b", fields={"masks"}).problems
    assert twice.endswith("a.png is skipped: a.jpg has the same name for masks.")
    assert "zzz.png is skipped: no image in" in mask
    assert "bare.png is skipped" in bare
    own_folders(tmp_path / "c", "p")
    (tmp_path / "c" / "q" / "images").mkdir(parents=True)
    save(tmp_path / "c" / "r" / "images" / "r.png")
    assert [sentence.partition(" is skipped: ")[2] for sentence in read(tmp_path / "c", fields={"masks"}).problems] == [
        "it has 0 images in images/; one image and a folder of masks are expected.",
        "it has no masks/; one image and a folder of masks are expected.",
    ]


def test_an_invalid_mask_file(tmp_path):
    numbers(tmp_path)
    save(tmp_path / "images" / "b.png")
    (tmp_path / "masks" / "b.png").write_text("no image")
    (skipped,) = read(tmp_path, fields={"masks"}).problems
    assert skipped.endswith(f"b.png: not an image in any known format, whatever its name; "
                             f"{tmp_path / 'images' / 'b.png'} is skipped.")  # fmt: skip


def test_other_forms_are_refused(tmp_path):
    save(tmp_path / "a" / "images" / "cells" / "a.png")
    (tmp_path / "a" / "masks").mkdir()
    with pytest.raises(VertebraError, match="holds folders; images lie directly in it, and splits are folders"):
        open_data(tmp_path / "a", fields={"masks"})
    save(tmp_path / "b" / "images" / "a.png")
    save(tmp_path / "b" / "masks" / "other.png", block(0, 0, 1, 1))
    with pytest.raises(VertebraError, match="is called as an image in"):
        open_data(tmp_path / "b", fields={"masks"})
    class_folders(tmp_path / "c")
    save(tmp_path / "c" / "masks" / "a.png", block(0, 0, 1, 1))
    with pytest.raises(VertebraError, match=r"holds folders of classes and also loose files such as a\.png"):
        open_data(tmp_path / "c", fields={"masks"})
    save(tmp_path / "d" / "images" / "a.png")
    save(tmp_path / "d" / "masks" / "a.png", np.ones((8, 10, 3), np.uint8))
    with pytest.raises(VertebraError, match=r"has no images.* its pixels are colours; the number of an instance"):
        open_data(tmp_path / "d", fields={"masks"})
