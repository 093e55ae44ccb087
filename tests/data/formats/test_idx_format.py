"""IDX files to catalogues, and every sentence about what is wrong with them."""

import gzip
import json
import struct
import tracemalloc
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from vertebra.data import open_data
from vertebra.errors import VertebraError
from vertebra.images import read_image

LABEL = attrgetter("label")


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
    catalogue = open_data(idx_folder(tmp_path, packed=packed))
    assert (catalogue.format, catalogue.classes) == ("idx", ("0", "1", "2"))
    assert catalogue.counts("train", LABEL) == catalogue.counts("val", LABEL) == [1, 1, 1]
    image = catalogue.split("train")[1].image
    assert image.tolist() == [np.arange(20, 40).reshape(4, 5).tolist()]
    assert read_image(image).shape == (3, 4, 5)


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
        ("{", r"classes\.json, line 1: not valid JSON"),
        ("[" * 100_000, r"classes\.json: lists and objects are nested too deeply"),
        ('["x", "y", null]', r"classes\.json: a class is called None; a name is expected"),
        ('["x", "y", "x"]', r"classes\.json: two classes are called 'x'"),
        ('"xyz"', r"classes\.json is not a JSON list of class names, but 'xyz'"),
        ("3", r"classes\.json is not a JSON list of class names"),
        ('["x", "y"]', r"classes\.json names 2 classes, but the labels go up to 2"),
        ('{"x": 0, "y": 1, "z": 2}', r"classes\.json has no name for class 0; its keys must be 0, 1, 2"),
    ],
)
def test_idx_with_invalid_names(tmp_path, content, sentence):
    idx_folder(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(VertebraError, match=sentence):
        open_data(tmp_path)


def test_idx_that_is_invalid_is_explained(tmp_path):
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
    with pytest.raises(VertebraError, match=r"train has 3 images but 2 labels"):
        open_data(tmp_path)
    labels.unlink()
    with pytest.raises(VertebraError, match=r"has no train-labels-idx1-ubyte or train-labels-idx1-ubyte\.gz"):
        open_data(tmp_path)
    Path(f"{labels}.gz").write_bytes(b"not packed")
    with pytest.raises(VertebraError, match=r"train-labels-idx1-ubyte\.gz is not a whole IDX file"):
        open_data(tmp_path)


def test_idx_without_images(tmp_path):
    with pytest.raises(VertebraError, match="hold no images"):
        open_data(idx_folder(tmp_path, labels=()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "sizes", [(3, 4, -5), (3, 0, 5), (2**31 - 1, 4, 5), (2**31 - 1, 10_000, 10_000), (1, 2, 2**30)]
)
def test_memory_is_not_taken_for_what_a_header_claims(tmp_path, monkeypatch, packed, sizes):
    idx_folder(tmp_path, packed=packed)
    content = bytes([0, 0, 8, 3]) + struct.pack(">3i", *sizes) + bytes(60)
    name = f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setattr(np, "empty", None)  # allocates the pixels
    with pytest.raises(VertebraError, match=r"is not a whole IDX file of bytes \(its header states [-0-9]"):
        open_data(tmp_path)


def test_a_packed_file_is_not_unpacked_beyond_its_header(tmp_path, monkeypatch):
    idx_folder(tmp_path, packed=True)
    head = bytes([0, 0, 8, 3]) + struct.pack(">3i", 3, 4, 5)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(50_000_000), 1))
    tracemalloc.start()
    with pytest.raises(VertebraError, match=r"it has more bytes than its header states"):
        open_data(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
