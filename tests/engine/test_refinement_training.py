"""Training of a refinement network: it runs, resumes and is evaluated like any other."""

import json

import pytest
import yaml
from PIL import Image

import vertebra
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.engine import checkpoint
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError

TINY = (
    *("--data.path=shapes", "--data.image_size=32", "--data.workers=0", "--device=cpu", "--logger=csv"),
    *("--model.backbone=resnet18", "--model.backbone_options={depths: [1, 1, 1, 1]}", "--model.channels=8"),
)


def test_where_coarse_masks_come_from_is_an_option_of_the_data_of_this_task_alone():
    assert resolve("refinement", None, {}).data.coarse == ("degraded",)
    assert resolve("refinement", None, {"coarse": ["a.json", "b.json"]}).data.coarse == ("a.json", "b.json")
    with pytest.raises(VertebraError, match=r"instance training has no setting 'data\.coarse'"):
        resolve("instance", None, {"data.coarse": ["a.json"]})
    with pytest.raises(VertebraError, match=r"data\.coarse is 'a\.json'; it must be a list of strings"):
        resolve("refinement", None, {"data.coarse": "a.json"})


@pytest.mark.slow
def test_a_run_is_resumed_and_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 10, "val": 3})
    run = tmp_path / "run"
    assert main(["train", "refinement", *TINY, "--epochs=1", f"--output={run}"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["coarse"] == ["degraded"]
    assert main(["train", f"--resume={run}", "--epochs=2"]) == 0
    printed = capsys.readouterr().out
    assert "coarse masks (degraded), a boundary patch of each per epoch" in printed
    assert "boundary patches" in printed
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2
    task, about = checkpoint.load(run, device="cpu")
    assert task.preprocess.channels == 4
    assert about["data"]["coarse"] == ["degraded"]
    evaluation = vertebra.evaluate(run, workers=0, device="cpu")
    trained = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert evaluation.metrics == pytest.approx(trained)
    assert 0.8 < evaluation.metrics["coarse_iou"] < 1
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert f"next: vertebra refine RESULTS --data.path=DATA --model={run}" in printed
    assert main(["predict", str(run), str(tmp_path / "a.png")]) == 2
    assert "a model for refinement refines masks and predicts none" in capsys.readouterr().err
