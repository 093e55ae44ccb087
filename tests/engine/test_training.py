"""Training: it learns, resumes exactly, and gives the same on several processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vertebra import tasks
from vertebra.data.transforms import Augment
from vertebra.engine.settings import Data, Settings
from vertebra.engine.train import train
from vertebra.errors import VertebraError

TINY = ("--data.image_size=32", "--data.batch_size=60", "--model.backbone=resnet18", "--accelerator=cpu")


def settings(run: Path, *, backbone: str = "resnet18", size: int = 32, **options) -> Settings:
    model = tasks.find("classification").Config(backbone=backbone, **options.pop("model", {}))
    data = Data(image_size=size, batch_size=60, workers=0)
    return Settings(model=model, data=data, output=str(run), accelerator="cpu", **options)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "vertebra", "train", "classification", *TINY, *words]


def history(run: Path) -> list[dict[str, float]]:
    head, *rows = (run / "metrics.csv").read_text().splitlines()
    return [dict(zip(head.split(","), map(float, row.split(",")), strict=True)) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnetv2_b0"])
def test_it_learns_the_shapes(tmp_path, backbone):
    options = {"epochs": 4, "lr": 0.03} if backbone == "resnet18" else {"epochs": 4, "optimizer": "adamw", "lr": 0.003}
    run = train(settings(tmp_path / "run", backbone=backbone, augment=Augment(crop=1.0, colour=0), **options))
    rows = history(run)
    assert rows[-1]["train/loss"] < 1.3  # log(6) = 1.79 is chance
    assert max(row["val/top1"] for row in rows) > 0.5  # chance is 0.17
    names = {path.name for path in run.iterdir()}
    assert names >= {"best.safetensors", "last.ckpt", "config.yaml", "metrics.csv", "evaluation.json", "report.html"}
    assert not [name for name in names if name.endswith(".tmp")]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["metrics"]["top1"] == pytest.approx(max(row["val/top1"] for row in rows), abs=0.01)


def test_every_way_of_training_runs(tmp_path):
    """One step each of what the recipe offers, all together; mixing makes the labels soft."""
    augment = Augment(mixup=0.2, cutmix=1.0, randaugment=5, erase=0.5, rotate=10, flip_vertical=0.5)
    model = {"dropout": 0.1, "drop_path": 0.1, "label_smoothing": 0.1}
    common = {"epochs": 1, "optimizer": "adamw", "ema": 0.9, "accumulate": 2, "clip": 1.0, "patience": 1}
    more = {"balance": True, "layer_decay": 0.8, "checkpointing": True, "precision": "bf16-mixed"}
    run = train(settings(tmp_path / "run", augment=augment, model=model, **common, **more))
    assert len(history(run)) == 1


def test_a_resumed_run_takes_what_is_said_now(tmp_path):
    run = train(settings(tmp_path / "run", epochs=1, lr=0.1))
    train(settings(run, epochs=2, lr=0.001, weight_decay=0.3, resume=str(run)))
    assert [row["lr"] < 0.002 for row in history(run)] == [False, True]
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.3
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["epochs"], written["lr"], written["resume"]) == (2, 0.001, None)


def test_what_a_resumed_run_cannot_change(tmp_path):
    run = train(settings(tmp_path / "run", epochs=2))
    for change, sentence in (
        ({"epochs": 1}, "has 2 epochs already, and epochs is 1"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw' and was 'sgd', which a run that is resumed cannot change"),
        ({"freeze_backbone": True}, "freeze_backbone is True and was False"),
        ({"ema": 0.9}, "ema is True and was False"),
        ({"backbone": "resnet34"}, "model.backbone is 'resnet34' and was 'resnet18'"),
    ):
        with pytest.raises(VertebraError, match=sentence):
            train(settings(run, resume=str(run), **{"epochs": 3, **change}))


def test_stopping_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    run = train(settings(tmp_path / "run", epochs=1))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vertebra.engine.trainee.Trainee.training_step", stop)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings(run, epochs=2, resume=str(run)))
    signal.signal(signal.SIGINT, handler)
    assert f"stopped; go on with: vertebra train classification --resume={run}" in capsys.readouterr().out


def test_validating_every_few_epochs(tmp_path):
    run = train(settings(tmp_path / "run", epochs=4, val_every=3, patience=1))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/top1"]) for row in rows] == [False, False, True, True]  # the last one always
    assert all(row["train/loss"] for row in rows)


def test_a_frozen_backbone_stays_as_it_was(tmp_path):
    first = train(settings(tmp_path / "first", epochs=1))
    second = train(
        settings(tmp_path / "second", epochs=2, lr=0.5, freeze_backbone=True, weights=str(first / "best.safetensors"))
    )
    before, after = load_file(first / "best.safetensors"), load_file(second / "best.safetensors")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("backbone."), name


def test_a_run_is_reproduced_by_its_config(tmp_path):
    from vertebra.cli import main

    first = train(settings(tmp_path / "first", epochs=1, model={"dropout": 0.3}))
    words = ["train", f"--config={first / 'config.yaml'}", f"--output={tmp_path / 'second'}"]
    assert main(words) == 0
    a, b = load_file(first / "best.safetensors"), load_file(tmp_path / "second" / "best.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_overwritten(tmp_path):
    run = train(settings(tmp_path / "run", epochs=1))
    with pytest.raises(VertebraError, match=r"holds a run already.*--resume"):
        train(settings(run, epochs=1))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    """SIGKILL in mid-epoch, then --resume: bit for bit the weights of a run that nobody killed."""
    options = ["--epochs=4", "--model.drop_path=0.2", "--model.dropout=0.2", "--ema=0.9", "--augment.mixup=0.2"]
    options += ["--data.workers=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(*options, f"--output={whole}"), check=True, env=environment, capture_output=True)
    with subprocess.Popen(
        command(*options, f"--output={killed}"), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2/4"):
                break
        deadline = time.monotonic() + 60
        while not (killed / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.4)  # into the third epoch
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(history(killed)) < 4
    command_line = [sys.executable, "-m", "vertebra", "train", "classification", f"--resume={killed}"]
    subprocess.run(command_line, check=True, env=environment, capture_output=True)
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (whole, killed))
    for part in ("state_dict", "current_model_state"):  # the average, and what it is the average of
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), (part, name)
    first, second = load_file(whole / "best.safetensors"), load_file(killed / "best.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    unequal = {"seconds", "waiting"}  # the clock is not seeded
    for x, y in zip(history(whole), history(killed), strict=True):
        assert {k: v for k, v in x.items() if k not in unequal} == {k: v for k, v in y.items() if k not in unequal}


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["torchrun", "own"])
def test_two_processes_give_the_metrics_of_one(tmp_path, launch):
    """With a frozen backbone nothing depends on how a batch is split, so all numbers agree, validation's exactly."""
    start = train(settings(tmp_path / "start", epochs=1))
    options = ["--epochs=2", "--freeze_backbone", f"--weights={start}", "--lr=0.1", "--augment.colour=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    subprocess.run(command(*options, f"--output={one}"), check=True, env=environment, capture_output=True)
    words = command(*options, f"--output={two}")
    if launch == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words[1:]]
    else:
        words.append("--devices=2")
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best: top1") == 1
    for x, y in zip(history(one), history(two), strict=True):
        for name in x:
            if name not in ("seconds", "waiting"):
                assert y[name] == pytest.approx(x[name], rel=1e-4, abs=1e-5), name
