"""What the tests of prediction share: a task that finds regions of one brightness exactly."""

import sys
from pathlib import Path

import pytest

from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.predict import Predictor
from vertebra.structures import Preprocess


@pytest.fixture
def make_finder(tmp_path, monkeypatch):
    """Makes a checkpoint of the blob finder, for `size` pixels a side, and its Predictor."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "tasks")])
    monkeypatch.delitem(sys.modules, "vertebra.tasks.blobs", raising=False)

    def make(kind="masks", size=64, resize="shortest", classes=("even", "odd"), **about):
        preprocess = Preprocess(
            size=(size, 4 * size), resize=resize, interpolation="nearest", divisor=4, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        task = tasks.create("blobs", classes=classes, preprocess=preprocess, kind=kind)
        checkpoint.save(task, tmp_path / "finder" / "best.safetensors", **about)
        return Predictor(tmp_path / "finder", device="cpu")

    return make
