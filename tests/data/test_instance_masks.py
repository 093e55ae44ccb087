"""Folders of masks to samples, and a sentence for everything that can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import pictures
from vertebra.data import open_data, readers
from vertebra.errors import VertebraError


def save(path: Path, values: np.ndarray | None = None) -> Path:
    """A mask file, or a picture of 10 x 8 pixels."""
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


def test_a_folder_for_each_picture(tmp_path):
    own_folders(tmp_path, "p", "q", "r", "s", "t")
    found = open_data(tmp_path, want="masks")
    assert (found.kind, found.classes, found.has) == ("masks", ("object",), {"boxes", "masks"})
    assert {split: len(samples) for split, samples in found.splits.items()} == {"train": 4, "val": 1}
    assert found.counts("val") == [2]
    (sample,) = found.split("val")
    truth = sample.truth((8, 10))
    assert truth.boxes.tolist() == [[1, 2, 4, 5], [6, 0, 10, 3]]
    assert truth.areas.tolist() == [9, 12]
    assert truth.crowd.tolist() == [False, False]
    assert torch.equal(truth.masks[0], torch.from_numpy(block(1, 2, 4, 5) > 0))
    assert open_data(tmp_path, want="boxes").split("val")[0].truth((8, 10)).boxes.tolist() == truth.boxes.tolist()


def test_opening_reads_no_mask(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was opened")

    own_folders(tmp_path, "p", "q")
    monkeypatch.setattr(pictures, "opened", refuse)
    assert len(open_data(tmp_path, want="masks").split("val")) == 1


def test_a_folder_for_each_class(tmp_path):
    found = readers.read(class_folders(tmp_path), want="masks")
    assert found.classes == ("cat", "dog")
    by_name = {sample.picture.stem: sample for sample in found.split("train")}
    assert by_name["a"].target.labels.tolist() == [1]
    assert by_name["a"].truth((8, 10)).boxes.tolist() == [[0, 0, 1, 1]]
    assert by_name["a_1"].target.labels.tolist() == [0, 1]
    assert by_name["a_1"].truth((8, 10)).boxes.tolist() == [[6, 0, 10, 3], [1, 2, 4, 5]]
    assert by_name["b"].truth((8, 10)).masks.shape == (0, 8, 10)
    assert by_name["b"].truth((8, 10)).boxes.shape == (0, 4)


def test_numbers_in_one_file(tmp_path):
    found = readers.read(numbers(tmp_path), want="masks")
    (sample,) = found.split("train")
    assert sample.numbers == (3, 7)
    truth = sample.truth((8, 10))
    assert truth.boxes.tolist() == [[1, 2, 4, 5], [0, 0, 10, 8]]
    assert truth.areas.tolist() == truth.masks.sum((1, 2)).tolist() == [9, 13]


@pytest.mark.parametrize("write", [class_folders, numbers, lambda folder: own_folders(folder, "p")])
def test_folders_of_splits(tmp_path, write):
    for split in ("train", "val"):
        write(tmp_path / split)
    found = open_data(tmp_path, want="masks")
    assert set(found.splits) == {"train", "val"}
    assert len(found.split("val")) == len(found.split("train"))


def test_a_mask_without_a_pixel_is_no_object(tmp_path):
    own_folders(tmp_path, "p")
    save(tmp_path / "p" / "masks" / "0.png", block(0, 0, 0, 0))
    (sample,) = readers.read(tmp_path, want="masks").split("train")
    truth = sample.truth((8, 10))
    assert len(truth.masks) == len(truth.boxes) == len(truth.labels) == len(truth.crowd) == 2


def test_a_mask_of_another_size(tmp_path):
    own_folders(tmp_path, "p")
    wrong = save(tmp_path / "p" / "masks" / "0.png", np.ones((3, 4), np.uint8))
    (sample,) = readers.read(tmp_path, want="masks").split("train")
    with pytest.raises(VertebraError, match=rf"{wrong}: a mask of 3 x 4 pixels lies on a picture of 8 x 10"):
        sample.truth((8, 10))
    numbers(tmp_path / "other")
    save(tmp_path / "other" / "images" / "b.png")
    save(tmp_path / "other" / "masks" / "b.png", np.ones((3, 4), np.uint8))
    (left_out,) = readers.read(tmp_path / "other", want="masks").broken
    assert left_out.endswith("b.png is left out: its masks are 3 x 4 pixels, it is 8 x 10 (height x width).")


def test_files_of_no_picture_are_left_out(tmp_path):
    class_folders(tmp_path / "a")
    save(tmp_path / "a" / "masks" / "dog" / "zzz_1.png", block(0, 0, 1, 1))
    (left_out,) = readers.read(tmp_path / "a", want="masks").broken
    assert "zzz_1.png is left out: no picture in" in left_out
    numbers(tmp_path / "b")
    save(tmp_path / "b" / "masks" / "zzz.png", block(0, 0, 1, 1))
    save(tmp_path / "b" / "images" / "bare.png")
    save(tmp_path / "b" / "images" / "a.png")
    twice, mask, bare = readers.read(tmp_path / "b", want="masks").broken
    assert twice.endswith("a.png is left out: a.jpg has the same name for masks.")
    assert "zzz.png is left out: no picture in" in mask
    assert "bare.png is left out" in bare
    own_folders(tmp_path / "c", "p")
    (tmp_path / "c" / "q" / "images").mkdir(parents=True)
    save(tmp_path / "c" / "r" / "images" / "r.png")
    assert [
        sentence.partition(" is left out: ")[2] for sentence in readers.read(tmp_path / "c", want="masks").broken
    ] == [
        "it has 0 pictures in images/; one picture and a folder of masks are expected.",
        "it has no masks/; one picture and a folder of masks are expected.",
    ]


def test_a_mask_file_of_no_use(tmp_path):
    numbers(tmp_path)
    save(tmp_path / "images" / "b.png")
    (tmp_path / "masks" / "b.png").write_text("no picture")
    (left_out,) = readers.read(tmp_path, want="masks").broken
    assert left_out.endswith(f"b.png: not a picture in any known format, whatever its name; "
                             f"{tmp_path / 'images' / 'b.png'} is left out.")  # fmt: skip


def test_other_forms_are_refused(tmp_path):
    save(tmp_path / "a" / "images" / "train" / "a.png")
    (tmp_path / "a" / "masks").mkdir()
    with pytest.raises(VertebraError, match="holds folders; the pictures lie in it themselves, and splits are folders"):
        open_data(tmp_path / "a", want="masks")
    save(tmp_path / "b" / "images" / "a.png")
    save(tmp_path / "b" / "masks" / "other.png", block(0, 0, 1, 1))
    with pytest.raises(VertebraError, match="is called as a picture in"):
        open_data(tmp_path / "b", want="masks")
    class_folders(tmp_path / "c")
    save(tmp_path / "c" / "masks" / "a.png", block(0, 0, 1, 1))
    with pytest.raises(VertebraError, match=r"holds folders of classes and also loose files, a\.png for one"):
        open_data(tmp_path / "c", want="masks")
    save(tmp_path / "d" / "images" / "a.png")
    save(tmp_path / "d" / "masks" / "a.png", np.ones((8, 10, 3), np.uint8))
    with pytest.raises(VertebraError, match=r"has no pictures.* its pixels are colours; the number of an instance"):
        open_data(tmp_path / "d", want="masks")
