"""What the tests of the command line share: a way to run it, and one tiny trained model."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from vertebra.cli import main
from vertebra.data.formats import shapes

TINY = ("--data.image_size=32", "--data.workers=0", "--model.backbone=resnet18", "--device=cpu", "--epochs=1")


def write_images(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5) -> Path:
    """An image folder: each class has its own brightness, each image its own noise."""
    random = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (24, 32, 3)) + 150 * number / max(1, len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five images of each of two classes."""
    return write_images(tmp_path / "photos")


@pytest.fixture
def few_shapes(monkeypatch) -> None:
    """A small built-in set."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 12, "val": 6})


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder once for all test processes: `once(name, make)` lets `make` fill it. Not to be written to."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (root / f"{name}.complete").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def trained(once) -> Path:
    """A run folder of one epoch, its training data `photos` and what it printed (output.txt) beside it. Read only."""

    def make(folder: Path) -> None:
        write_images(folder / "photos")
        words = ["train", "classification", f"--data.path={folder / 'photos'}", f"--output={folder / 'run'}", *TINY]
        with (folder / "output.txt").open("w") as file, contextlib.redirect_stdout(file):
            assert main(words) == 0

    return once("trained", make) / "run"


@pytest.fixture
def run_vertebra(capsys) -> Callable[..., str]:
    """Runs a command that must succeed; returns what it printed."""

    def run(*words: object) -> str:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, error = capsys.readouterr()
        assert status == 0, error
        return out

    return run


@pytest.fixture
def complaint(capsys) -> Callable[..., str]:
    """Runs a command that must fail as a user's mistake does: status 2, one line, no traceback; returns the line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, error = capsys.readouterr()
        assert status == 2
        assert error.startswith("vertebra: ")
        assert error.count("\n") == 1
        assert "Traceback" not in out + error
        return error

    return run
