"""What the tests of the command line share: a way to run it, and one tiny trained model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra.cli import main
from vertebra.data import shapes

TINY = ("--data.image_size=32", "--data.workers=0", "--model.backbone=resnet18", "--accelerator=cpu", "--epochs=1")


def write_pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5) -> Path:
    """A picture folder: each class has its own brightness, each picture its own noise."""
    random = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (24, 32, 3)) + 150 * number / max(1, len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five pictures of each of two classes."""
    return write_pictures(tmp_path / "photos")


@pytest.fixture
def few_shapes(monkeypatch) -> Iterator[None]:
    """A small built-in set."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 12, "val": 6})
    shapes.scenes.cache_clear()
    yield
    shapes.scenes.cache_clear()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run folder of one epoch; `photos` beside it is what it was trained on. Not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    write_pictures(folder / "photos")
    words = ["train", "classification", f"--data.path={folder / 'photos'}", f"--output={folder / 'run'}", *TINY]
    assert main(words) == 0
    return folder / "run"


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
