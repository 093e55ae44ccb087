"""Folders, CSV lists and IDX files to catalogues, and every sentence about what is wrong with them."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import pictures
from vertebra.data import open_data
from vertebra.data.catalogue import Catalogue, Sample, restrict, same_points
from vertebra.errors import VertebraError
from vertebra.structures import Points, Target


def fill(folder: Path, *names: str) -> Path:
    """Files by the names of pictures; readers look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(samples: list[Sample], folder: Path) -> list[tuple[str, int]]:
    return [(str(sample.picture.relative_to(folder)), sample.label) for sample in samples]


# -- folders


def test_a_folder_per_class(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("b", "a", "c") for i in range(5)))
    found = open_data(tmp_path)
    assert (found.kind, found.path, found.classes) == ("folder", str(tmp_path), ("a", "b", "c"))
    assert found.counts("train") == [4, 4, 4]
    assert found.counts("val") == [1, 1, 1]
    assert found.notes == ["no val split: 20% of each class set apart with seed 0"]
    for samples in found.splits.values():
        for path, label in named(samples, tmp_path):
            assert path.startswith(found.classes[label])
        assert all(sample.target.path == str(sample.picture) for sample in samples)


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "VALIDATION"), ("train", "valid")])
def test_folders_of_splits(tmp_path, train, val):
    fill(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{val}/a/3.png", f"{val}/b/4.png", "extra/x.png")
    found = open_data(tmp_path)
    assert named(found.split("train"), tmp_path) == [(f"{train}/a/1.png", 0), (f"{train}/b/2.png", 1)]
    assert named(found.split("val"), tmp_path) == [(f"{val}/a/3.png", 0), (f"{val}/b/4.png", 1)]
    assert found.notes == ["passed over beside the splits: extra"]


def test_a_val_split_may_lack_classes(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", "val/c/4.png")
    assert open_data(tmp_path).counts("val") == [0, 0, 1]


def test_a_test_split_stands_in_for_val(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    found = open_data(tmp_path)
    assert named(found.split("val"), tmp_path) == [("test/a/3.png", 0)]
    assert "test" not in found.splits
    assert found.notes == ["no val split: the test split is used as val"]


def test_test_and_val_stay_apart(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png")
    assert {name: len(samples) for name, samples in open_data(tmp_path).splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_hidden_folders_and_other_files_are_passed_over(tmp_path):
    fill(tmp_path, ".cache/x.png", "a/1.png", "a/.thumbs/1.png", "a/notes.txt", "a/deep/2.JPG", "b/3.png", "b/4.png")
    found = open_data(tmp_path)
    assert found.classes == ("a", "b")
    assert sum(len(samples) for samples in found.splits.values()) == 4


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a/1.png", "b/readme.txt"], r"class folder .*b holds no pictures \(\.jpg, .*\): add some, or remove"),
        (["a/1.png"], r"has one class only \('a'\); a classifier needs two or more to tell apart"),
        (["1.png", "2.png"], r"has no class folders but 2 loose pictures; put the pictures of each class into"),
        (["readme.txt"], r"has no class folders; put the pictures"),
        (["train/a/1.png", "train/b/2.png", "val/bb/3.png"], r"bb is a class that the train split does not have"),
        (["train/cat/1.png", "train/dog/2.png", "val/cats/3.png"], r"Did you mean 'cat'\?"),
    ],
)
def test_folders_of_no_use_are_explained(tmp_path, files, sentence):
    fill(tmp_path, *files)
    with pytest.raises(VertebraError, match=sentence):
        open_data(tmp_path)


def test_paths_of_no_use_are_explained(tmp_path):
    fill(tmp_path, "photos/a/1.png", "letter.txt")
    with pytest.raises(VertebraError, match=rf"photo is not there\. Did you mean {tmp_path / 'photos'}\?"):
        open_data(tmp_path / "photo")
    with pytest.raises(VertebraError, match=rf"The folder {tmp_path} is, but holds no 'zzz'"):
        open_data(tmp_path / "zzz" / "deeper")
    with pytest.raises(VertebraError, match=r"letter\.txt is a file; data is a folder of pictures or a \.csv list"):
        open_data(tmp_path / "letter.txt")
    with pytest.raises(VertebraError, match=r"letter\.txt/x is not there"):
        open_data(tmp_path / "letter.txt" / "x")


# -- the split


def many(folder: Path) -> Path:
    return fill(folder, *(f"{name}/{i}.png" for name, count in (("a", 40), ("b", 10), ("c", 2)) for i in range(count)))


def test_the_split_is_stratified(tmp_path):
    found = open_data(many(tmp_path), val_share=0.25)
    assert found.counts("val") == [10, 2, 1]  # a rare class gets at least one
    assert found.counts("train") == [30, 8, 1]
    both = named(found.split("train"), tmp_path) + named(found.split("val"), tmp_path)
    assert len(set(both)) == 52


def test_the_split_depends_on_the_seed_alone(tmp_path):
    many(tmp_path)
    first, again = (named(open_data(tmp_path, seed=3).split("val"), tmp_path) for _ in range(2))
    assert first == again
    assert named(open_data(tmp_path, seed=4).split("val"), tmp_path) != first


def test_a_class_of_one_picture_is_trained_on(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    found = open_data(tmp_path)
    assert found.counts("train") == [1, 1]
    assert found.counts("val") == [0, 1]


def test_a_split_that_is_not_there(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png")
    found = open_data(tmp_path)
    with pytest.raises(VertebraError, match=r"no pictures in its val split; it has train \(2\), val \(0\)"):
        found.split("val")
    with pytest.raises(VertebraError, match="no pictures in its test split"):
        found.split("test")


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_is_none(tmp_path, share):
    with pytest.raises(VertebraError, match=f"val_share is {share}; it must lie between 0 and 1"):
        open_data(many(tmp_path), val_share=share)


# -- CSV


def csv_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    fill(folder, "in/1.png", "in/2.png", "in/3.png")
    (folder / "list.csv").write_text(text, encoding=encoding)
    return folder / "list.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path, encoding):
    text = " Path,label,Split,remark\nin/2.png,zebra,train,x\nin/1.png,ölf,VALID ,\nin/3.png,ölf,,\n"
    found = open_data(csv_file(tmp_path, text, encoding))
    assert (found.kind, found.classes) == ("csv", ("zebra", "ölf"))
    assert named(found.split("train"), tmp_path) == [("in/2.png", 0), ("in/3.png", 1)]
    assert named(found.split("val"), tmp_path) == [("in/1.png", 1)]


def test_csv_without_splits_is_divided(tmp_path):
    rows = "".join(f"in/{1 + i % 3}.png,{'ab'[i % 2]}\n" for i in range(20))
    found = open_data(csv_file(tmp_path, f"path,label\n{rows}"))
    assert found.counts("train") == [8, 8]
    assert found.counts("val") == [2, 2]


def test_csv_paths_may_be_absolute(tmp_path):
    path = csv_file(tmp_path, "")
    path.write_text(f"path,label,split\n{tmp_path}/in/1.png,a,train\n{tmp_path}/in/2.png,b,val\n")
    assert named(open_data(path).split("val"), tmp_path) == [("in/2.png", 1)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"list\.csv, line 1: a picture list has the columns path, label and maybe split; this one has none"),
        ("path;label\n", r"line 1: .* this one has path;label"),
        ("path,label\n", r"list\.csv lists no pictures"),
        ("path,label\nin/1.png,a\nin/9.png,b\n", r"list\.csv, line 3: .*in/9\.png is not there"),
        ("path,label\nin/1.png,a\nin/2.png,\n", r"line 3: path or label is empty"),
        ("path,label\nin/1.png\n", r"line 2: path or label is empty"),
        ("path,label,split\nin/1.png,a,tarin\n", r"line 2: split is 'tarin', not one of train, training, val"),
        ("path,label\nin/1.png,a\nin/2.png,a\n", r"has one class only \('a'\)"),
        (f"path,label\n{'x' * 200_000},a\n", r"line 2: cannot be read as CSV \(field larger"),
    ],
)
def test_csv_of_no_use_is_explained(tmp_path, text, sentence):
    with pytest.raises(VertebraError, match=sentence):
        open_data(csv_file(tmp_path, text))


@pytest.mark.parametrize("text", ["path,label,Größe\n", "path,label\nin/1.png,Größe\n"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_csv_in_another_encoding_is_explained(tmp_path, text, encoding):
    with pytest.raises(VertebraError, match=r"list\.csv, line \d: cannot be read as CSV \('utf-8' codec"):
        open_data(csv_file(tmp_path, text, encoding))


# -- IDX


def idx(path: Path, array: np.ndarray, *, packed: bool = False, magic: int = 8) -> None:
    head = bytes([0, 0, magic, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


def idx_folder(folder: Path, *, packed: bool = False, labels: tuple[int, ...] = (0, 1, 2)) -> Path:
    suffix = ".gz" if packed else ""
    for number, split in enumerate(("train", "t10k")):
        images = np.arange(len(labels) * 20).reshape(-1, 4, 5) + number
        idx(folder / f"{split}-images-idx3-ubyte{suffix}", images, packed=packed)
        idx(folder / f"{split}-labels-idx1-ubyte{suffix}", np.array(labels), packed=packed)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path, packed):
    found = open_data(idx_folder(tmp_path, packed=packed))
    assert (found.kind, found.classes) == ("idx", ("0", "1", "2"))
    assert found.counts("train") == found.counts("val") == [1, 1, 1]
    picture = found.split("train")[1].picture
    assert picture.tolist() == [np.arange(20, 40).reshape(4, 5).tolist()]
    assert pictures.read(picture).shape == (3, 4, 5)


@pytest.mark.parametrize(
    "names",
    [
        ["x", "y", "z"],
        {"classes": ["x", "y", "z"]},
        {"0": "x", "1": "y", "2": "z"},
        {"classes": {"0": "x", "1": "y", "2": "z"}},
    ],
)
def test_idx_with_names(tmp_path, names):
    idx_folder(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(names))
    assert open_data(tmp_path).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"classes\.json is not a JSON list of class names"),
        ("3", r"classes\.json is not a JSON list of class names"),
        ('["x", "y"]', r"classes\.json names 2 classes, but the labels go up to 2"),
        ('{"x": 0, "y": 1, "z": 2}', r"classes\.json has no name for class '0'; its keys must be 0, 1, 2"),
    ],
)
def test_idx_with_names_of_no_use(tmp_path, content, sentence):
    idx_folder(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(VertebraError, match=sentence):
        open_data(tmp_path)


def test_idx_of_no_use_is_explained(tmp_path):
    images, labels = (tmp_path / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    idx_folder(tmp_path)
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(VertebraError, match=r"train-images-idx3-ubyte is not a whole IDX file of bytes"):
        open_data(tmp_path)
    images.write_bytes(b"\0")
    with pytest.raises(VertebraError, match=r"is not a whole IDX file"):
        open_data(tmp_path)
    idx(images, np.zeros((3, 4, 5)), magic=13)  # floats
    with pytest.raises(VertebraError, match=r"its magic number is wrong"):
        open_data(tmp_path)
    idx_folder(tmp_path)
    idx(labels, np.zeros(2))
    with pytest.raises(VertebraError, match=r"train has 3 pictures but 2 labels"):
        open_data(tmp_path)
    labels.unlink()
    with pytest.raises(VertebraError, match=r"has no train-labels-idx1-ubyte or train-labels-idx1-ubyte\.gz"):
        open_data(tmp_path)
    Path(f"{labels}.gz").write_bytes(b"not packed")
    with pytest.raises(VertebraError, match=r"train-labels-idx1-ubyte\.gz is not a whole IDX file"):
        open_data(tmp_path)


def test_idx_without_pictures(tmp_path):
    with pytest.raises(VertebraError, match="hold no pictures"):
        open_data(idx_folder(tmp_path, labels=()))


# -- classes of the data and of the model


def test_restrict():
    samples = [Sample(torch.zeros(3, 2, 2), Target(label=torch.tensor(i), path=str(i))) for i in (0, 1, 1)]
    assert restrict(samples, ("a", "b"), ("a", "b")) == samples
    found = restrict(samples, ("a", "b"), ("x", "b", "a"))
    assert [s.label for s in found] == [2, 1, 1]
    assert [s.target.path for s in found] == ["0", "1", "1"]
    with pytest.raises(VertebraError, match=r"class 'dogs' that the model does not know. Did you mean 'dog'\?"):
        restrict(samples, ("cat", "dogs"), ("cat", "dog"))


def test_keypoints_of_a_model_and_of_data():
    data = Catalogue("hands", "coco", ("hand",), {}, points=Points(("tip", "root")))
    same_points(data, Points(("tip", "root")))
    same_points(data, Points(("0", "1")))  # a checkpoint that does not name them
    for other in (("root", "tip"), ("tip",), ("0",)):
        with pytest.raises(VertebraError, match="hands has the keypoints tip, root; the model has"):
            same_points(data, Points(other))


def test_what_is_listed_can_be_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (4, 4), (i * 50, 0, 0)).save(tmp_path / name / f"{i}.png")
    for samples in open_data(tmp_path).splits.values():
        assert all(pictures.read(sample.picture).shape == (3, 4, 4) for sample in samples)


# -- what is wanted


def test_classes_of_whole_pictures_are_no_boxes(tmp_path):
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    assert open_data(tmp_path, want=None).has == {"label"}
    with pytest.raises(VertebraError, match="has classes of whole pictures but no boxes: train classification on it"):
        open_data(tmp_path, want="boxes")


def test_a_picture_of_several_is_left_to_train(tmp_path):
    fill(tmp_path, "annotations/x.json", *(f"images/{i}.png" for i in range(2)))
    images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in range(2)]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4} for i in range(2)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "annotations" / "x.json").write_text(json.dumps(content))
    for share in (0.01, 0.99):
        found = open_data(tmp_path, want="boxes", val_share=share)
        assert (len(found.splits["train"]), len(found.splits["val"])) == (1, 1)
