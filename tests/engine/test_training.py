"""Training: it learns, resumes exactly, and gives the same numbers on several processes."""

import csv
import dataclasses
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.processes import printed_by, started, started_together, wait_for
from tests.runs import history

import vertebra
from vertebra import tasks
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.engine import checkpoint
from vertebra.engine.settings import Settings, resolve
from vertebra.engine.train import Run, train
from vertebra.errors import VertebraError
from vertebra.predict import Predictor
from vertebra.structures import Target

SHALLOW = {"backbone_options": {"depths": (1, 1, 1, 1)}}
TINY = (
    *("--data.image_size=32", "--model.backbone=resnet18", "--device=cpu"),
    "--model.backbone_options={depths: [1, 1, 1, 1]}",
)


def settings(run: Path, data: Path | str = "shapes", **overrides) -> Settings:
    model = {"backbone": overrides.pop("backbone", "resnet18"), **SHALLOW, **overrides.pop("model", {})}
    quick = {"image_size": 32, "batch_size": 60, "workers": 0, "device": "cpu"}
    return resolve("classification", None, {"data.path": data, "output": run, "model": model, **quick, **overrides})


@pytest.mark.slow
def test_it_learns_the_shapes(tmp_path, monkeypatch):
    """Of the other families see tests/backbones/test_learning.py."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 480, "val": 60})
    options = {"epochs": 3, "lr": 0.03, "augment": {"crop": 1.0, "colour": 0}}
    run = train(settings(tmp_path / "run", batch_size=30, **options)).folder
    rows = history(run)
    assert rows[-1]["train/loss"] < 1.3  # log(6) = 1.79 is chance
    assert max(row["val/top1"] for row in rows) > 0.5  # chance is 0.17
    names = {path.name for path in run.iterdir()}
    assert names >= {"best.safetensors", "last.ckpt", "config.yaml", "metrics.csv", "evaluation.json", "report.html"}
    assert not [name for name in names if name.endswith(".tmp")]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["metrics"]["top1"] == pytest.approx(max(row["val/top1"] for row in rows), abs=0.01)


def test_every_way_of_training_runs(tmp_path, photos):
    """One step with every setting, all together; mixing makes the labels soft."""
    augment = {"mixup": 0.2, "cutmix": 1.0, "randaugment": 5, "erase": 0.5, "rotate": 10, "flip_vertical": 0.5}
    model = {"dropout": 0.1, "drop_path": 0.1, "label_smoothing": 0.1}
    common = {"epochs": 1, "optimizer": "adamw", "ema": 0.9, "accumulate": 2, "clip": 1.0, "patience": 1}
    more = {"balance": True, "layer_decay": 0.8, "checkpointing": True, "precision": "bf16-mixed"}
    run = train(settings(tmp_path / "run", photos, augment=augment, model=model, **common, **more))
    assert len(history(run.folder)) == 1


@pytest.fixture(scope="module")
def first(tmp_path_factory, photos) -> Run:
    """A run of two epochs. Not to be written to."""
    run = tmp_path_factory.mktemp("first") / "run"
    return train(settings(run, photos, epochs=2, lr=0.1, model={"dropout": 0.3}))


def copy(run: Run, to: Path) -> Path:
    return Path(shutil.copytree(run.folder, to))


def test_a_resumed_run_takes_its_present_settings(tmp_path, photos, first):
    run = copy(first, tmp_path / "run")
    train(settings(run, photos, epochs=3, lr=0.001, weight_decay=0.3, resume=run))
    assert [row["lr"] < 0.002 for row in history(run)] == [False, True, True]
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.3
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["epochs"], written["lr"], written["resume"]) == (3, 0.001, None)


def test_a_resumed_run_starts_from_its_own_config(tmp_path, photos, first):
    run = copy(first, tmp_path / "run")
    again = vertebra.train("classification", data=photos, resume=run, epochs=3)
    written = yaml.safe_load((run / "config.yaml").read_text())
    before = yaml.safe_load((first.folder / "config.yaml").read_text())
    assert written == before | {"epochs": 3}
    assert [row["epoch"] for row in again.history] == [1, 2, 3]


def test_settings_that_a_resumed_run_cannot_change(photos, first):
    run = first.folder
    for change, sentence in (
        ({"epochs": 1}, "has 2 epochs already, and epochs is 1"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw' and was 'sgd', which a run that is resumed cannot change"),
        ({"freeze": "all"}, "freeze is 'all' and was 0"),
        ({"ema": 0.9}, "ema is True and was False"),
        ({"backbone": "resnet34"}, "model.backbone is 'resnet34' and was 'resnet18'"),
    ):
        with pytest.raises(VertebraError, match=sentence):
            train(settings(run, photos, resume=run, **{"epochs": 3, **change}))


def test_another_method_or_model_option_cannot_be_resumed(tmp_path, photos, brightness, capsys):
    run = vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK)
    resumed = {"data": photos, "resume": run.folder, "epochs": 4}
    with pytest.raises(VertebraError, match="method is 'medians' and was 'means'"):
        vertebra.train(brightness, method="medians", **resumed)
    with pytest.raises(VertebraError, match=r"model.head.bias is False and was True"):
        vertebra.train(brightness, model={"head": {"bias": False}}, **resumed)
    with pytest.raises(VertebraError, match="task is 'classification' and was 'brightness'"):
        vertebra.train("classification", **resumed)
    words = ["--model.method=medians", f"--resume={run.folder}"]
    assert main(["train", brightness, *words]) == 2
    assert "method is 'medians' and was 'means', which a run that is resumed cannot" in capsys.readouterr().err
    assert len(vertebra.train(brightness, **resumed).history) == 4


def test_stopping_says_how_to_continue(tmp_path, photos, first, monkeypatch, capsys):
    run = copy(first, tmp_path / "run")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vertebra.engine.trainee.Trainee.training_step", stop)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings(run, photos, epochs=3, model={"dropout": 0.3}, resume=run))
    signal.signal(signal.SIGINT, handler)
    assert f"stopped; continue with: vertebra train classification --resume={run}" in capsys.readouterr().out


def test_validating_every_few_epochs(tmp_path, photos):
    run = train(settings(tmp_path / "run", photos, epochs=4, val_every=3, patience=1)).folder
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/top1"]) for row in rows] == [False, False, True, True]  # the last one always
    assert all(row["train/loss"] for row in rows)


def test_a_frozen_backbone_stays_as_it_was(tmp_path, photos, first):
    more = {"epochs": 1, "lr": 0.5, "freeze": "all", "weights": first.best}
    second = train(settings(tmp_path / "second", photos, **more))
    before, after = load_file(first.best), load_file(second.best)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("backbone."), name


def test_a_run_is_reproduced_by_its_config(tmp_path, first):
    words = ["train", f"--config={first.folder / 'config.yaml'}", f"--output={tmp_path / 'second'}"]
    assert main(words) == 0
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (first.folder, tmp_path / "second")]
    assert configs[0] == configs[1] | {"output": str(first.folder)}
    assert configs[0]["model"] == {
        "method": tasks.default_method("classification"),
        **json.loads(
            json.dumps(dataclasses.asdict(tasks.find("classification").Config("resnet18", **SHALLOW, dropout=0.3)))
        ),
    }
    a, b = load_file(first.best), load_file(tmp_path / "second" / "best.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_overwritten(photos, first):
    with pytest.raises(VertebraError, match=r"holds a run already.*--resume"):
        train(settings(first.folder, photos, epochs=1))


def test_the_run_is_what_its_folder_holds(photos, first):
    assert first.best == first.folder / "best.safetensors"
    assert first.metrics == json.loads((first.folder / "evaluation.json").read_text())["metrics"]
    assert [row["epoch"] for row in first.history] == [1, 2]
    scores = [row["val/top1"] for row in first.history]
    assert first.epoch == 1 + scores.index(max(scores))
    assert first.metrics["top1"] == pytest.approx(max(scores))
    predictor = first.load(device="cpu")
    assert isinstance(predictor, Predictor)
    assert predictor.classes == ("cat", "dog")
    (prediction,) = predictor.predict(next(photos.rglob("*.png")))
    assert float(prediction.probabilities.sum()) == pytest.approx(1)


def test_every_form_of_a_model_is_evaluated_alike(photos, first):
    expected = first.metrics["top1"]
    task = vertebra.create("classification", weights=first.best, classes=["cat", "dog"], backbone="resnet18")
    task.preprocess = first.load().task.preprocess
    for model in (first, first.folder, str(first.best), first.load(device="cpu")):
        assert vertebra.evaluate(model, workers=0).metrics["top1"] == expected  # on the data that it was trained on
    task.train()
    assert vertebra.evaluate(task, data=photos, workers=0).metrics["top1"] == expected
    assert task.training
    assert len(vertebra.evaluate(first, data=photos, split="train", batch_size=7, workers=0).rows) == 40
    with pytest.raises(VertebraError, match="does not say what it was trained on"):
        vertebra.evaluate(task)


# -- own tasks and data

QUICK = {"epochs": 2, "image_size": 8, "workers": 0, "device": "cpu"}


class Bright(torch.utils.data.Dataset):
    """Dark and bright images [3, 8, 8] in turn."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return torch.full((3, 8, 8), 40 + 160 * (index % 2), dtype=torch.uint8), Target(label=torch.tensor(index % 2))


def test_a_task_without_a_backbone_learns(tmp_path, photos, brightness):
    more = {"weight_decay": 0.0, "checkpointing": False, "freeze": 0}
    run = vertebra.train(
        brightness, data=photos, output=tmp_path / "run", model={"width": 16}, **QUICK | more | {"epochs": 10}
    )
    assert run.metrics["top1"] == 1.0
    assert len(run.history) == 10
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert written["model"] == {"method": "means", "width": 16, "head": {"bias": True}}
    assert (written["data"]["batch_size"], written["optimizer"], written["lr"]) == (8, "adamw", 0.01)  # its recipe
    for name, value in {"checkpointing": True, "layer_decay": 0.5}.items():
        with pytest.raises(VertebraError, match=f"{name} has no effect in brightness: leave it out"):
            vertebra.train(brightness, data=photos, output=tmp_path / "other", **QUICK | {name: value})


def test_without_a_method_the_checkpoint_decides(tmp_path, photos, brightness, monkeypatch):
    medians, means = (tasks.find(brightness, method) for method in ("medians", "means"))
    checkpoint.save(tasks.create(brightness, method="medians", classes=["cat", "dog"]), tmp_path / "start.safetensors")
    more = {"data": photos, "weights": tmp_path / "start.safetensors", **QUICK}
    with pytest.raises(VertebraError, match=r"is a checkpoint of medians, .*other settings than means: choose model"):
        vertebra.train(brightness, output=tmp_path / "run", **more)
    monkeypatch.setattr(medians, "RECIPE", means.RECIPE)
    for chosen, method in ((None, "medians"), ("means", "means")):
        run = vertebra.train(brightness, method=chosen, output=tmp_path / method, **more)
        assert run.load(device="cpu").task.method == method
        assert yaml.safe_load((run.folder / "config.yaml").read_text())["model"]["method"] == method


def test_without_an_output_runs_are_numbered(tmp_path, photos, brightness, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [vertebra.train(brightness, data=photos, **QUICK | {"epochs": 1}).folder for _ in range(2)]
    assert folders == [Path("runs/brightness-means-1"), Path("runs/brightness-means-2")]


@pytest.mark.parametrize("form", ["dataset", "mapping"])
def test_own_datasets(tmp_path, brightness, form):
    data = Bright(20) if form == "dataset" else {"train": Bright(16), "val": Bright(4)}
    run = vertebra.train(brightness, data=data, output=tmp_path / "run", model={"width": 16}, **QUICK)
    assert len(json.loads((run.folder / "evaluation.json").read_text())["images"]) == 4
    assert "data" not in run.load(device="cpu").about
    evaluation = vertebra.evaluate(run, data=data, workers=0)
    assert len(evaluation.rows) == (20 if form == "dataset" else 4)
    with pytest.raises(VertebraError, match="does not say what it was trained on"):
        vertebra.evaluate(run)


# -- killed and resumed, and on several processes


def hang_in_the_second_epoch() -> None:
    from vertebra.engine.trainee import Trainee

    start = Trainee.on_train_batch_start

    def hang(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            print("in the second epoch", flush=True)
            time.sleep(600)
        start(self, batch, batch_idx)

    Trainee.on_train_batch_start = hang


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, photos):
    """SIGKILL in mid-epoch, then --resume: bit for bit the weights of a run that nobody killed."""
    words = ["train", "classification", *TINY, f"--data.path={photos}", "--data.batch_size=10", "--data.workers=1"]
    words += ["--epochs=3", "--model.drop_path=0.2", "--model.dropout=0.2", "--ema=0.9", "--augment.mixup=0.2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*words, f"--output={whole}"]) == 0
    with started([*words, f"--output={killed}"], tmp_path, before=hang_in_the_second_epoch) as process:
        wait_for("in the second epoch", process, tmp_path)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(history(killed)) == 1
    assert main(["train", "classification", f"--resume={killed}"]) == 0
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (whole, killed))
    for part in ("state_dict", "current_model_state"):  # the average, and the weights that it is the average of
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), (part, name)
    first, second = load_file(whole / "best.safetensors"), load_file(killed / "best.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    unequal = {"seconds", "waiting"}  # the clock is not seeded
    for x, y in zip(history(whole), history(killed), strict=True):
        assert {k: v for k, v in x.items() if k not in unequal} == {k: v for k, v in y.items() if k not in unequal}


@pytest.fixture(scope="module")
def frozen(photos, first) -> list[str]:
    """The command of a run with a frozen backbone, in which nothing depends on how a batch is split."""
    words = ["train", "classification", *TINY, f"--data.path={photos}", "--data.batch_size=20", "--data.workers=0"]
    return [*words, "--epochs=2", "--freeze=all", f"--weights={first.best}", "--lr=0.1", "--augment.colour=0"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, frozen) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    assert main([*frozen, f"--output={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(tmp_path, frozen, one_process):
    """With a frozen backbone all numbers agree, validation's exactly."""
    with started_together([*frozen, f"--output={tmp_path / 'two'}"], tmp_path, 2) as processes:
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "0" / "err.txt").read_text()
    lines = [line for rank in "01" for line in printed_by(tmp_path / rank)]
    assert sum(line.startswith("best: top1") for line in lines) == 1
    for x, y in zip(history(one_process), history(tmp_path / "two"), strict=True):
        for name in x:
            if name not in ("seconds", "waiting"):
                assert y[name] == pytest.approx(x[name], rel=1e-4, abs=1e-5), name
