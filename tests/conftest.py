"""What tests share. Each test process uses one thread, because the tests themselves run side by side."""

import os
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
