"""The files of docs/extending are put into a copy of the package, and used from the command line as any other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = re.compile(r'^```python title="(src/vertebra/[^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)

SCRIPT = """
import json, sys
import torch
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.engine import checkpoint

torch.set_num_threads(1)
shapes.COUNTS = {"train": 8, "val": 4}
task, *options = json.loads(sys.argv[1])
common = ["--data.workers=0", "--device=cpu"]
for words in (
    ["train", task, "--data.path=shapes", "--epochs=1", "--output=run", *options, *common],
    ["train", "--resume=run", "--epochs=2", *common],
    ["evaluate", "run", "--data.path=shapes", "--data.workers=0", "--save=evaluation", "--device=cpu"],
    ["data", "convert", "shapes", "--to=coco", "--save=data"],
    ["predict", "run", "data/images/val", "--save=predictions", "--device=cpu"],
    ["methods", task],
):
    assert main(words) == 0, words

task, _ = checkpoint.load("run", device="cpu")
images = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    program = torch.export.export(task, (images,)).module()
    for ours, exported in zip(task(images), program(images), strict=True):
        torch.testing.assert_close(ours, exported)
"""


@pytest.fixture
def package(tmp_path):
    """Copies the package, adds the files of a page, and checks that nothing else differs."""

    def make(page: str) -> Path:
        copy = tmp_path / "src" / "vertebra"
        shutil.copytree(ROOT / "src" / "vertebra", copy, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
        files = FILE.findall((ROOT / "docs" / "extending" / page).read_text(encoding="utf-8"))
        assert files, page
        for name, text in files:
            path = tmp_path / name
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return make


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "options", "shown", "listed"),
    [
        (
            "method.md",
            ["detection", "--model.method=fcos", "--model.backbone=resnet18", "--model.neck.channels=64"],
            "val box_ap",
            r"fcos.*1904\.01355.*torchvision",
        ),
        ("task.md", ["counting", "--model.backbone=resnet18"], "val exact", "counting +regression"),
    ],
)
def test_one_file_is_enough(package, page, options, shown, listed):
    folder = package(page)
    printed = run(folder, SCRIPT, json.dumps([*options, "--data.image_size=64", "--data.batch_size=8"]))
    assert "epoch 1/1" in printed
    assert "epoch 2/2" in printed
    assert shown in printed
    assert (folder / "run" / "report.html").stat().st_size > 10_000
    assert (folder / "evaluation" / "report.html").is_file()
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert len(evaluation["images"]) == 4
    assert len(list((folder / "predictions").glob("*.png"))) == 4
    assert json.loads((folder / "predictions" / "predictions.json").read_text()) is not None
    assert re.search(listed, printed)
