"""What tests share. Each test process uses one thread, because the tests themselves run side by side."""

import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.left_out import LEFT_OUT, SAMPLED

from vertebra.viz import plots

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

SHARED = Path(os.environ.get("VERTEBRA_SHARED", Path(__file__).parents[1] / ".." / "shared"))

PLOTS = {name: getattr(plots, name) for name in ("plot", "curves", "confusion")}


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also the cases like which others stay: tests/left_out.py")


def pytest_collection_modifyitems(config, items):
    if config.getoption("all"):
        return
    kept, left_out, counts = [], [], Counter()
    for item in items:
        function, _, case = item.nodeid.partition("[")
        step, number = SAMPLED.get(function, 1), counts[function]
        counts[function] += 1
        # Every `step`-th case, shifted by one after each `step` cases, so that all `step` values of a parameter occur.
        out = (number + number // step) % step or case.removesuffix("]") in LEFT_OUT.get(function, ())
        (left_out if out else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_collection_finish():
    """What is there by now stays to the end: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _without_plots() -> Iterator[None]:
    """Matplotlib takes most of the time of a short run: reports have plots in tests with `real_plots`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PLOTS:
            patch.setattr(plots, name, lambda *_: "")
        yield


@pytest.fixture
def real_plots(monkeypatch) -> None:
    """Reports with plots."""
    for name, function in PLOTS.items():
        monkeypatch.setattr(plots, name, function)


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Reference outputs of the official implementations."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"reference outputs are not here ({folder}); set VERTEBRA_SHARED to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real images."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are not here ({folder}); set VERTEBRA_SHARED to the folder that holds them")
    return folder


BROWSER_FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update")
BROWSER_FLAGS = (*BROWSER_FLAGS, "disable-sync", "disable-dev-shm-usage", "no-first-run", "window-size=1200,900")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, driven by selenium, with its downloads in `folder`."""
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (browser and driver):
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    folder = tmp_path_factory.mktemp("browser")
    options.binary_location = browser
    for flag in (*BROWSER_FLAGS, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    driver.folder = folder
    yield driver
    driver.quit()


RANDOM = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_")


@pytest.fixture
def no_initialisation(monkeypatch):
    """For models that are filled from a reference: their random initialisation would only take time."""
    for name in RANDOM:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def make_detector(tmp_path, monkeypatch):
    """Saves a checkpoint, in `detector`, of a task that detects regions of one brightness; returns its Predictor."""
    from vertebra import tasks
    from vertebra.engine import checkpoint
    from vertebra.predict import Predictor
    from vertebra.structures import KeypointSchema, Preprocess

    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "predict" / "tasks")])
    for module in ("vertebra.tasks.blobs", "vertebra.tasks.blobs.regions"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def make(kind="masks", size=64, resize="shortest", classes=("even", "odd"), **about):
        preprocess = Preprocess(
            size=(size, 4 * size), resize=resize, interpolation="nearest", divisor=4, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        schema = KeypointSchema(("left", "right"), ((0, 1),), (1, 0), (0.1, 0.1))
        task = tasks.create("blobs", classes=classes, preprocess=preprocess, kind=kind, keypoints=schema)
        checkpoint.save(task, tmp_path / "detector" / "best.safetensors", **about)
        return Predictor(tmp_path / "detector", device="cpu")

    return make
