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
from vertebra.viz import plots

torch.set_num_threads(1)
shapes.COUNTS = {"train": 8, "val": 4}
plots.plot = plots.curves = plots.confusion = lambda *_: ""  # which would take most of the time
main(["data", "convert", "shapes", "--to=coco", "--save=data"])
for task, *options in json.loads(sys.argv[1]):
    print("#", task)
    common = ["--data.workers=0", "--device=cpu"]
    run = task + "/run"
    for words in (
        ["train", task, "--data.path=shapes", "--epochs=1", "--output=" + run, *options, *common],
        ["train", "--resume=" + run, "--epochs=2", *common],
        ["evaluate", run, "--data.path=shapes", "--data.workers=0", f"--save={task}/evaluation", "--device=cpu"],
        ["predict", run, "data/images/val", f"--save={task}/predictions", "--device=cpu"],
        ["methods", task],
    ):
        assert main(words) == 0, words
"""
COMMON = ["--model.backbone=resnet18", "--model.backbone_options={depths: [1, 1, 1, 1]}", "--data.image_size=64"]
PAGES = {
    # page: the task, its options, and what is printed of its score and of its methods
    "method.md": (
        ["detection", "--model.method=fcos", "--model.neck.channels=64"],
        "val box_ap",
        r"fcos.*1904\.01355.*torchvision",
    ),
    "task.md": (["counting"], "val exact", "counting +regression"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the package, with the files of the pages and no other difference."""
    root = tmp_path_factory.mktemp("extended")
    copy = root / "src" / "vertebra"
    shutil.copytree(ROOT / "src" / "vertebra", copy, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    for page in PAGES:
        files = FILE.findall((ROOT / "docs" / "extending" / page).read_text(encoding="utf-8"))
        assert files, page
        for name, text in files:
            path = root / name
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, str]:
    """What the commands print, by task; one process for all, which takes long to start."""
    commands = [[*words, *COMMON, "--data.batch_size=8"] for words, _, _ in PAGES.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *parts = done.stdout.split("\n# ")
    return dict(part.split("\n", 1) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_one_file_is_enough(folder, printed, page):
    (task, *_), shown, listed = PAGES[page]
    assert "epoch 1/1" in printed[task]
    assert "epoch 2/2" in printed[task]
    assert shown in printed[task]
    assert (folder / task / "run" / "report.html").stat().st_size > 10_000
    assert (folder / task / "evaluation" / "report.html").is_file()
    evaluation = json.loads((folder / task / "evaluation" / "evaluation.json").read_text())
    assert len(evaluation["images"]) == 4
    predictions = folder / task / "predictions"
    assert len(list(predictions.glob("*.png"))) == 4
    assert json.loads((predictions / "predictions.json").read_text()) is not None
    assert re.search(listed, printed[task])
