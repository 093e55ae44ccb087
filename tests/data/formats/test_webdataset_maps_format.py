"""Tar shards of images and their label maps, which are read from their places."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra import kinds
from vertebra.data.reading import read
from vertebra.errors import VertebraError

CLASSES = ["road", "sky"]


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def labels() -> np.ndarray:
    values = np.zeros((6, 9), np.uint8)
    values[:, 4:] = 1
    values[0] = 255
    return values


@pytest.fixture
def folder(tmp_path: Path, labels: np.ndarray) -> Path:
    image = png(np.full((6, 9, 3), 7, np.uint8))
    for split in ("train", "val"):
        members = {
            "a.png": image,
            "a.seg.png": png(labels),
            "b.png": image,
            "b.mask.png": png((labels != 1).astype(np.uint8)),
        }
        shard(tmp_path / f"{split}-000.tar", members | {"c.png": image, "a.labels.png": png(labels)})
    (tmp_path / "classes.json").write_text(json.dumps({"names": CLASSES, "ignore_index": 255}))
    return tmp_path


def test_label_maps_are_read_from_their_places(folder: Path, labels: np.ndarray) -> None:
    for _ in range(2):  # from the headers, and from what is kept of them
        catalogue = read(folder)
        assert (catalogue.format, catalogue.classes) == ("webdataset_maps", tuple(CLASSES))
        assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 2, "val": 2}
        first, second = catalogue.split("train")
        assert np.array_equal(first.load_target(first.size).semantic.numpy(), labels)
        assert set(np.unique(second.load_target(second.size).semantic.numpy())) == {0, 1}
        assert first.target.path == str(folder / "train-000.tar" / "a.png")
        train = [problem for problem in catalogue.problems if "train-000" in problem]
        assert "a.labels.png is skipped: its key has another label map, a.seg.png" in train[0]
        assert "c.png is skipped: it has no .seg.png, .mask.png" in train[1]
        assert len(train) == 2
    assert kinds.find("semantic").read(folder).classes == tuple(CLASSES)
    assert len(read(folder / "train-{000..000}.tar").split("train")) == 2


def test_maps_beside_classes(folder: Path) -> None:
    """What is needed decides which of them is read."""
    image, other = png(np.full((6, 9, 3), 7, np.uint8)), png(np.zeros((6, 9), np.uint8))
    for file in folder.glob("*.tar"):
        file.unlink()
    shard(folder / "train.tar", {"a.png": image, "a.cls": b"1", "a.seg.png": other})
    assert read(folder, fields={"label"}).format == read(folder).format == "webdataset"
    assert read(folder, fields={"semantic"}).format == "webdataset_maps"


def test_what_is_wrong_is_said(folder: Path, labels: np.ndarray) -> None:
    shard(folder / "train-000.tar", {"a.png": png(np.zeros((6, 8, 3), np.uint8)), "a.seg.png": png(labels)})
    (sample,) = read(folder).split("train")
    with pytest.raises(VertebraError, match=r"a.seg.png: the label map is 6 x 9 pixels, its image 6 x 8"):
        sample.load_target(sample.size)
    (folder / "classes.json").unlink()
    with pytest.raises(VertebraError, match=r"nothing names the classes of the label maps; write a classes.json"):
        read(folder, fields={"semantic"})
