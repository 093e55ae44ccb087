"""What the tests of training share: small images of two classes, and a task that has no backbone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra import tasks


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """40 training and 12 val images of two classes that differ in their brightness."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 6)):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (24, 32, 3)) + 150 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture
def brightness(monkeypatch) -> str:
    """The name of a task without a backbone, with the methods `means` (the default) and `medians`."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "tasks")])
    yield "brightness"
    for name in [name for name in sys.modules if name.startswith("vertebra.tasks.brightness")]:
        del sys.modules[name]
    vars(tasks).pop("brightness", None)
