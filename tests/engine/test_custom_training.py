"""vertebra.train with own transforms, callbacks and loggers."""

import csv
import importlib.util

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger
from torchvision.transforms import v2

import vertebra
from vertebra.cli import main
from vertebra.engine import loggers
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError

QUICK = {"epochs": 2, "image_size": 8, "workers": 0, "device": "cpu"}


class Blacken:
    """Black images; counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image, target):
        self.count += 1
        return torch.zeros_like(image), target


class Recorder(L.Callback):
    """Keeps the images of training batches, and the epochs that ended."""

    def __init__(self) -> None:
        self.images = []
        self.epochs = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.images.append(batch.images)

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append((trainer.current_epoch, float(trainer.callback_metrics["val/top1"])))


def test_transforms_take_the_place_of_the_augmentation(tmp_path, photos, brightness):
    transforms, recorder = Blacken(), Recorder()
    run = vertebra.train(
        brightness, data=photos, output=tmp_path / "run", transforms=transforms, callbacks=[recorder], **QUICK
    )
    assert transforms.count == 2 * 40  # val images are not transformed
    assert len(torch.cat(recorder.images).unique()) == 3  # a channel's black each, normalised
    assert [epoch for epoch, _ in recorder.epochs] == [0, 1]
    assert [score for _, score in recorder.epochs] == pytest.approx([row["val/top1"] for row in run.history])
    written = yaml.safe_load((run.folder / "config.yaml").read_text())["augment"]
    assert (written["crop"], written["flip"], written["colour"]) == (1.0, 0.0, 0.0)


def test_with_an_augmentation_transforms_come_before_it(tmp_path, photos, brightness):
    recorder = Recorder()
    run = vertebra.train(
        brightness,
        data=photos,
        output=tmp_path / "run",
        transforms=Blacken(),
        augment={"erase": 1.0, "crop": 1.0},
        callbacks=[recorder],
        **QUICK,
    )
    assert len(torch.cat(recorder.images).unique()) == 4  # the erased part is 0 after the normalisation
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["augment"]["flip"] == 0.25  # of the recipe


def test_failing_transforms_name_the_image(tmp_path, photos, brightness):
    for workers in (0, 1):
        with pytest.raises(VertebraError, match=r"[^\n]*/train/\w+/\d+.png: transforms: TypeError: [^\n]*$"):
            vertebra.train(
                brightness,
                data=photos,
                output=tmp_path / "run",
                transforms=v2.RandomErasing.__init__,
                **QUICK | {"workers": workers},
            )


def test_callbacks_are_callbacks(photos, brightness):
    with pytest.raises(VertebraError, match=r"callbacks holds <class .*; it takes Callbacks of Lightning"):
        vertebra.train(brightness, data=photos, callbacks=[Recorder], **QUICK)


class Memory(Logger):
    """Keeps what is logged."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict = {}
        self.metrics: dict = {}

    def log_hyperparams(self, params) -> None:
        self.settings |= params

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics |= metrics


def test_several_loggers_by_name_and_of_lightning(tmp_path, photos, brightness):
    memory = Memory()
    run = vertebra.train(brightness, data=photos, output=tmp_path / "run", logger=["csv", memory], **QUICK)
    assert memory.settings["data"]["image_size"] == 8
    assert memory.settings["epochs"] == 2
    assert memory.metrics["val/top1"] == pytest.approx(run.history[-1]["val/top1"])
    with (run.folder / "csv" / "metrics.csv").open() as file:
        logged = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert logged == pytest.approx([row["train/loss"] for row in run.history], rel=1e-5)
    assert yaml.safe_load((run.folder / "csv" / "hparams.yaml").read_text())["epochs"] == 2
    assert not (run.folder / "tensorboard").exists()
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["logger"] == ["csv"]
    vertebra.train(brightness, data=photos, resume=run.folder, epochs=3)
    assert (run.folder / "csv" / "metrics.csv").exists()  # the logs of a run that is resumed stay
    assert (run.folder / "csv-2" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("word", "names"),
    [("csv", ["csv"]), ("tensorboard,csv", ["tensorboard", "csv"]), ("[csv]", ["csv"]), ("[]", [])],
)
def test_loggers_on_the_command_line(tmp_path, photos, brightness, word, names):
    words = ["train", brightness, f"--data.path={photos}", f"--logger={word}", f"--output={tmp_path / 'run'}"]
    assert main([*words, "--epochs=1", "--data.image_size=8", "--data.workers=0", "--device=cpu"]) == 0
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == set(names)
    config = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(config.read_text())["logger"] == names
    assert main(["train", f"--config={config}", f"--output={tmp_path / 'again'}"]) == 0
    assert {path.name for path in (tmp_path / "again").iterdir() if path.is_dir()} == set(names)


def test_loggers_that_are_not_there(tmp_path, photos, brightness, monkeypatch, capsys):
    with pytest.raises(VertebraError, match=r"logger is 'tensorbord'; there are csv, .* Did you mean 'tensorboard'"):
        vertebra.train(brightness, data=photos, logger="tensorbord", **QUICK)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("wandb", "mlflow") else found(name))
    for name in ("wandb", "mlflow"):
        assert name in loggers.names()
        words = ["train", brightness, f"--data.path={photos}", f"--output={tmp_path / 'run'}", f"--logger={name}"]
        assert main(words) == 2
        sentence = f"vertebra: logger {name} needs a package that is not installed: pip install {name}\n"
        assert capsys.readouterr().err == sentence
        assert not (tmp_path / "run").exists()
    with pytest.raises(VertebraError, match=r"logger is \(5,\); it must be a list of strings"):
        vertebra.train(brightness, data=photos, logger=5, **QUICK)


def test_a_logger_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "PACKAGE = ''\n"
        "def create(folder, project): return CSVLogger(folder, name=project)\n"
    )
    monkeypatch.setattr(loggers, "__path__", [*loggers.__path__, str(tmp_path)])
    assert resolve("classification", None, {"logger": ["mine"]}).logger == ("mine",)
    (made,) = loggers.create(["mine"], tmp_path)
    assert isinstance(made, CSVLogger)
    assert made.name == "vertebra"
