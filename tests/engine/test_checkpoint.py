"""The self-describing file, and files that are whole or not there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vertebra
from vertebra import tasks
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.files import held, replacing
from vertebra.structures import Preprocess
from vertebra.weights import fetch


def test_round_trip(tmp_path):
    preprocess = Preprocess(size=(32, 48), crop=0.9, resize="squash", mean=(0.4,), std=(0.2,))
    task = tasks.create(
        "classification",
        backbone="resnet18",
        classes=["cat", "dog"],
        preprocess=preprocess,
        dropout=0.1,
        class_weights=(1.0, 2.0),
    ).eval()
    checkpoint.save(task, tmp_path / "best.safetensors", metrics={"top1": 0.5}, epoch=3)
    loaded, about = checkpoint.load(tmp_path)  # the folder will do
    assert loaded.classes == ("cat", "dog")
    assert loaded.preprocess == preprocess
    assert loaded.config == task.config
    assert loaded.method == task.method == about["method"]
    assert about["metrics"] == {"top1": 0.5}
    assert about["version"] == vertebra.__version__
    images = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        assert torch.equal(task(images)[0], loaded(images)[0])


def test_a_file_without_description_is_explained(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(VertebraError, match="not written by Vertebra"):
        vertebra.load(tmp_path / "other.safetensors")


def test_a_file_is_read_once_by_every_command(tmp_path, photos, monkeypatch):
    """Also by those that ask it for options, classes, preprocessing and weights."""
    options = {"backbone_options": {"depths": (1, 1, 1, 1)}, "preprocess": Preprocess((32, 32))}
    task = tasks.create("classification", backbone="resnet18", classes=["cat", "dog"], **options)
    path = tmp_path / "start" / "best.safetensors"
    checkpoint.save(task, path)
    reads: list[Path] = []
    read = fetch._read_safetensors
    monkeypatch.setattr(fetch, "_read_safetensors", lambda file: (reads.append(Path(file)), read(file))[1])

    def counted(function) -> int:
        reads.clear()
        function()
        return reads.count(path)

    settings = {"data": photos, "image_size": 32, "workers": 0, "device": "cpu", "epochs": 1}
    assert counted(lambda: vertebra.create("classification", backbone="resnet18", weights=path)) == 1
    assert counted(lambda: vertebra.backbone("resnet18", weights=path)) == 1
    assert counted(lambda: vertebra.load(path).predict(next(photos.rglob("*.png")))) == 1
    assert counted(lambda: vertebra.evaluate(path, data=photos, workers=0)) == 1
    run = {"output": tmp_path / "run", "backbone": "resnet18", "weights": path}
    assert counted(lambda: vertebra.train("classification", **settings, **run)) == 1
    assert reads == [path, tmp_path / "run" / "best.safetensors"]
    words = [f"--data.path={photos}", "--data.workers=0", "--data.image_size=32", "--epochs=1", f"--weights={path}"]
    words += ["--device=cpu", "--model.backbone=resnet18", f"--output={tmp_path / 'second'}"]
    assert counted(lambda: main(["train", "classification", *words])) == 1
    assert counted(lambda: main(["predict", str(path), str(next(photos.rglob("*.png")))])) == 1
    assert counted(lambda: main(["evaluate", str(path), f"--data.path={photos}", "--data.workers=0"])) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(VertebraError, match=r"No space left on device.*still whole"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_program_leaves_no_temporary_file(tmp_path):
    def fail():
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise KeyError("a bug is not a full disk")

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_goes_wrong_beside_an_open_file_is_not_its_fault(tmp_path):
    def fail():
        with held(tmp_path / "table.csv") as temporary:
            temporary.write_text("half")
            raise RuntimeError("a bug elsewhere")

    with pytest.raises(RuntimeError, match="a bug elsewhere"):
        fail()
    assert not list(tmp_path.iterdir())
    with held(tmp_path / "table.csv") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "table.csv").read_text() == "whole"
