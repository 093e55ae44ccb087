"""What a terminal shows of training: the lines of a pipe above one bar; and why training stopped."""

import io
import re
from contextlib import redirect_stdout
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from rich.console import Console

import vertebra
from vertebra.engine import progress
from vertebra.engine.progress import TrainingBar
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError

QUICK = {"epochs": 2, "image_size": 8, "workers": 0, "device": "cpu"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def bar(monkeypatch) -> TrainingBar:
    """In the third of ten epochs of 100 steps, each validated with 20 steps; it is 60 s after `began`."""
    result = TrainingBar(resolve("classification", None, {"epochs": 10, "batch_size": 8}))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}, {"lr": 0.0123456}])
    result._trainer = SimpleNamespace(current_epoch=2, optimizers=[optimizer], num_val_batches=[20])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 60.0)
    result.loss, result.total, result.done, result.moment = torch.tensor(1.23456), 100, 25, 50.0  # 2 s per step
    return result


def text(bar: TrainingBar, width: int, render=TrainingBar.render) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(render(bar))
    return console.file.getvalue().splitlines()


def test_time_left_before_a_validation_was_measured(bar):
    validation = 20 * 2 / 3
    of_epoch, of_run = bar.seconds_left()
    assert of_epoch == pytest.approx(75 * 2 - 10 + validation)
    assert of_run == pytest.approx(of_epoch + 7 * (200 + validation))


def test_time_left_in_training_and_in_validation(bar):
    bar.validation_seconds = 30.0
    assert bar.seconds_left() == pytest.approx((140 + 30, 170 + 7 * 230))
    bar.validating, bar.total, bar.training_seconds = True, 40, 200.0
    assert bar.seconds_left() == pytest.approx((15 * 2 - 10, 20 + 7 * (200 + 30)))


def test_epochs_that_are_not_validated_take_less_time(bar):
    bar.settings.val_every, bar.validation_seconds = 4, 30.0  # epochs 4, 8 and 10
    assert bar.seconds_left() == pytest.approx((140, 140 + 7 * 200 + 3 * 30))


def test_before_the_first_step_the_time_left_is_unknown(bar):
    bar.done = 0
    assert bar.seconds_left() == (None, None)
    assert "left: epoch -:--, run -:--" in text(bar, 80)[0]


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_has_two_lines_that_fit(bar, width):
    first, second = text(bar, width)
    assert re.fullmatch(r"epoch 3/10  step 25/100  \S+ +left: epoch 2:33, run 27:27 *", first)
    assert second == "loss 1.2346  lr 0.0123  4 images/s"
    bar.total, bar.done, bar.settings.epochs = 99999, 12345, 300
    assert len(text(bar, width)) == 2
    assert all(len(line) <= width and "…" not in line for line in text(bar, width))
    bar.validating = True
    assert text(bar, width)[0].startswith("epoch 3/300  validation step 12345/99999")
    bar.done = 99999
    assert text(bar, width)[0].startswith("epoch 3/300  computing the metrics")


def test_a_terminal_gets_the_lines_of_a_pipe_and_a_bar(tmp_path, photos, brightness, monkeypatch, capsys):
    vertebra.train(brightness, data=photos, output=tmp_path / "pipe", **QUICK)
    piped = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert all(len(line) > 120 for line in piped)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    bars = []
    render = TrainingBar.render
    monkeypatch.setattr(TrainingBar, "render", lambda bar: bars.append(text(bar, 80, render)) or render(bar))
    monkeypatch.setattr(progress, "REFRESH", 100)
    with redirect_stdout(Terminal()) as terminal:
        vertebra.train(brightness, data=photos, output=tmp_path / "terminal", **QUICK)
    shown = terminal.getvalue()
    lines = [
        line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", shown) if re.match(r"epoch ./2  [0-9.]+ s", line)
    ]
    assert len(lines) == 2
    for line, whole in zip(lines, piped, strict=True):
        numbers = re.sub(r"[0-9.]+ s ", "", whole)
        assert numbers.startswith(re.sub(r"[0-9.]+ s ", "", line).removesuffix(" *"))
        assert len(line) <= 80
        assert "val top1" in line
        assert line.endswith(" *") == whole.endswith(" *")
    assert bars
    assert all(len(bar) == 2 for bar in bars)
    assert "v_num" not in shown
    assert "evaluating" in shown


def test_a_progress_bar_among_the_callbacks_takes_the_place_of_ours(tmp_path, photos, brightness, monkeypatch, capsys):
    monkeypatch.setattr("vertebra.engine.trainer.on_terminal", lambda: True)
    monkeypatch.setattr(TrainingBar, "on_train_start", lambda *_: pytest.fail("two bars"))
    vertebra.train(brightness, data=photos, output=tmp_path / "run", callbacks=[TQDMProgressBar()], **QUICK)
    assert "Epoch 0" in "".join(capsys.readouterr())


def test_early_stopping_says_that_and_why(tmp_path, photos, brightness, capsys):
    more = {"lr": 0.0, "epochs": 9, "patience": 2}
    run = vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK | more)
    best = run.history[0]["val/top1"]
    sentence = f"stopped after epoch 3: val top1 has not improved on {best:.4f} (epoch 1) for 2 validations"
    assert run.stopped == sentence
    assert capsys.readouterr().out.count(sentence + "\n") == 1
    assert len(run.history) == 3


def test_a_callback_that_stops_is_heard(tmp_path, photos, brightness, capsys):
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 1

    more = {"lr": 0.0, "epochs": 9}
    early = EarlyStopping("val/top1", patience=2, mode="max")
    run = vertebra.train(brightness, data=photos, output=tmp_path / "a", callbacks=[early], **QUICK | more)
    assert run.stopped.startswith("stopped after epoch 3: Monitored metric val/top1 did not improve")
    run = vertebra.train(brightness, data=photos, output=tmp_path / "b", callbacks=[Stop()], **QUICK | more)
    assert run.stopped == "stopped after epoch 2: a callback has stopped the trainer"
    assert run.stopped in capsys.readouterr().out


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_a_callback_that_stops_between_validations(tmp_path, photos, brightness, hook):
    """In an epoch, what was trained is validated, and the best model is there; after one, all is kept to go on."""
    stop = L.Callback()
    setattr(stop, hook, lambda trainer, *_: setattr(trainer, "should_stop", True))
    more = {"lr": 0.0, "epochs": 9, "val_every": 5}
    output = tmp_path / "run"
    if hook == "on_train_batch_end":
        run = vertebra.train(brightness, data=photos, output=output, callbacks=[stop], **QUICK | more)
        assert len(run.history) == 1
        assert "top1" in run.metrics
        assert run.load()
        return
    with pytest.raises(VertebraError, match=r"^stopped after epoch 1: .* before the first validation, .* go on"):
        vertebra.train(brightness, data=photos, output=output, callbacks=[stop], **QUICK | more)
    assert len(vertebra.train(brightness, data=photos, resume=output, device="cpu", epochs=3).history) == 3


def test_a_run_that_reaches_its_last_epoch_has_not_stopped(tmp_path, photos, brightness, capsys):
    run = vertebra.train(
        brightness, data=photos, output=tmp_path / "run", **QUICK | {"lr": 0.0, "epochs": 3, "patience": 2}
    )
    assert run.stopped == ""
    assert "stopped" not in capsys.readouterr().out
