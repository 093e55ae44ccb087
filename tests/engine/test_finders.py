"""lr=auto and batch_size=auto: numbers from trial steps, which leave nothing behind."""

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import vertebra
from vertebra import kinds, tasks
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.data.loader import loader
from vertebra.engine import finders
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError

QUICK = {"epochs": 1, "image_size": 8, "workers": 0, "device": "cpu"}
SHALLOW = {"backbone_options": {"depths": (1, 1, 1, 1)}}
TINY = {
    "classification": {},
    "detection": {"neck.channels": 16, "box_width": 32},
    "instance": {"neck.channels": 16, "box_width": 32},
    "keypoints": {"neck.channels": 16, "box_width": 32, "keypoint_width": 8, "keypoint_num_convs": 1},
}


def test_numbers_take_the_place_of_auto(tmp_path, photos, brightness, monkeypatch, capsys):
    monkeypatch.setattr(finders, "RATE_STEPS", 30)
    found = vertebra.train(
        brightness, data=photos, output=tmp_path / "auto", lr="auto", batch_size="auto", accumulate=2, **QUICK
    )
    written = yaml.safe_load((found.folder / "config.yaml").read_text())
    assert written["data"]["batch_size"] == 4  # of 40 images, 8 would leave 5 steps
    assert 1e-6 <= written["lr"] <= 0.1
    assert found.history[0]["lr"] <= written["lr"]
    lines = capsys.readouterr().out.splitlines()
    assert "data.batch_size 4: an epoch of 40 images would have fewer than 10 steps of 8" in lines
    assert f"lr {written['lr']:g}: a tenth of the rate with the lowest loss, see {found.folder / 'lr.png'}" in lines
    assert Image.open(found.folder / "lr.png").size[0] > 300
    assert [path.name for path in found.folder.rglob("*.ckpt")] == ["last.ckpt"]
    given = vertebra.train(
        brightness, data=photos, output=tmp_path / "given", lr=written["lr"], batch_size=4, accumulate=2, **QUICK
    )
    assert [row["train/loss"] for row in found.history] == [row["train/loss"] for row in given.history]
    a, b = load_file(found.best), load_file(given.best)
    assert all(torch.equal(a[name], b[name]) for name in a)
    status = main(["train", f"--config={found.folder / 'config.yaml'}", f"--output={tmp_path / 'again'}"])
    output, error = capsys.readouterr()
    assert status == 0, error
    assert "a tenth of" not in output


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """Finds for a tiny model on some of the built-in shapes; returns the settings."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 24, "val": 2})

    def run(task: str, **options):
        settings = resolve(task, None, {"model": {"backbone": "resnet18", **SHALLOW, **TINY[task]}, **QUICK, **options})
        kind = kinds.find(tasks.find(task).MODEL.kind)
        catalogue = kind.open("shapes")
        decided = kind.model_options(catalogue)
        model = tasks.create(task, classes=catalogue.classes, **settings.model | decided)
        model.preprocess = vertebra.structures.Preprocess((64, 64), resize=kind.resize_modes[0])
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state = torch.get_rng_state()

        def batches(settings):
            return loader(
                catalogue.split("train"),
                model.preprocess,
                kind,
                num_classes=len(catalogue.classes),
                batch_size=settings.data.known_batch_size,
                workers=0,
                augment=settings.augment,
                keypoints=catalogue.keypoints,
            )

        result = finders.replace_auto(settings, model, batches, 24, tmp_path, lambda _: None)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert model.training
        return result

    return run


@pytest.mark.parametrize("task", TINY)
def test_every_task_is_left_as_it_was(trial, monkeypatch, task):
    monkeypatch.setattr(finders, "RATE_STEPS", 8)
    settings = trial(task, batch_size="auto", lr="auto")
    assert settings.data.batch_size == 2
    assert isinstance(settings.lr, float)


def test_the_largest_batch_that_fits_is_taken(trial, monkeypatch):
    monkeypatch.setattr(finders, "MIN_EPOCH", 1)

    def step(self, batch, batch_idx):
        if len(batch.targets) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum(self.task.loss(batch.images, batch.targets).values())

    monkeypatch.setattr(finders.Trial, "training_step", step)
    assert trial("classification", batch_size="auto").data.batch_size == 4
    monkeypatch.setattr(finders.Trial, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial("classification", batch_size="auto")


def test_memory_that_would_be_filled_is_not_tried(trial, monkeypatch):
    monkeypatch.setattr(finders, "MIN_EPOCH", 1)
    used = iter([100, 200, 300, 600])  # before, and with 2, 4 and 8 images
    monkeypatch.setattr(finders, "_memory", lambda _: (1000, next(used)))
    assert trial("classification", batch_size="auto").data.batch_size == 8


def test_a_loss_that_grows_ends_the_trial(trial, monkeypatch):
    seen = []

    def loss(self, images, targets):
        seen.append(1)
        weight = next(self.parameters()).sum() * 0
        return {"loss": weight + (1.0 if len(seen) < 20 else float("inf") if len(seen) > 30 else 10.0)}

    monkeypatch.setattr(tasks.find("classification").MODEL, "loss", loss)
    settings = trial("classification", lr="auto", batch_size=4)
    assert len(seen) == 21  # the mean of the last five is then more than four times that of the first
    assert settings.lr < 1e-4


def test_a_loss_that_is_never_finite(trial, monkeypatch):
    monkeypatch.setattr(
        tasks.find("classification").MODEL, "loss", lambda self, *_: {"loss": next(self.parameters()).sum() * torch.nan}
    )
    with pytest.raises(VertebraError, match="lr auto: the loss is not finite after 0 steps with lr 1e-06"):
        trial("classification", lr="auto", batch_size=4)


def test_values_that_are_no_number(photos, brightness, tmp_path, capsys):
    for name, value in (("lr", "atuo"), ("batch_size", "all")):
        with pytest.raises(VertebraError, match=f"{name} is '{value}'; it must be a number or auto"):
            resolve("classification", None, {name: value})
    assert main(["train", "classification", "--lr=atuo"]) == 2
    assert "lr is 'atuo'; it must be a number or auto" in capsys.readouterr().err
    run = vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK)
    with pytest.raises(VertebraError, match="lr auto is for a new run"):
        vertebra.train(brightness, data=photos, resume=run.folder, epochs=2, lr="auto")
    with pytest.raises(VertebraError, match="batch_size auto works on one process, not on 2"):
        vertebra.train(brightness, data=photos, batch_size="auto", **QUICK, processes=2)
