"""What tests share. Each test process uses one thread, because the tests themselves run side by side."""

import os
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

SHARED = Path(os.environ.get("VERTEBRA_SHARED", Path(__file__).parents[1] / ".." / "shared"))


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Reference outputs of the official implementations."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"reference outputs are not here ({folder}); set VERTEBRA_SHARED to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real pictures."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real pictures are not here ({folder}); set VERTEBRA_SHARED to the folder that holds them")
    return folder


@pytest.fixture
def make_finder(tmp_path, monkeypatch):
    """Makes a checkpoint, in `finder`, of a task that finds regions of one brightness exactly; gives its Predictor."""
    from vertebra import tasks
    from vertebra.engine import checkpoint
    from vertebra.predict import Predictor
    from vertebra.structures import Points, Preprocess

    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "predict" / "tasks")])
    monkeypatch.delitem(sys.modules, "vertebra.tasks.blobs", raising=False)

    def make(kind="masks", size=64, resize="shortest", classes=("even", "odd"), **about):
        preprocess = Preprocess(
            size=(size, 4 * size), resize=resize, interpolation="nearest", divisor=4, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        points = Points(("left", "right"), ((0, 1),), (1, 0), (0.1, 0.1)) if kind == "keypoints" else None
        task = tasks.create("blobs", classes=classes, preprocess=preprocess, kind=kind, points=points)
        checkpoint.save(task, tmp_path / "finder" / "best.safetensors", **about)
        return Predictor(tmp_path / "finder", device="cpu")

    return make
