"""What ends a run from outside, memory, disk space, killed processes: one sentence for each, and nothing left."""

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.processes import started_together, wait_for

import vertebra
from vertebra.cli import main
from vertebra.engine import processes
from vertebra.errors import VertebraError, is_out_of_memory
from vertebra.files import held, remove_leftovers, replacing

QUICK = {"epochs": 1, "image_size": 8, "workers": 0, "device": "cpu"}


def out_of_memory(*_, **__):
    torch.empty(1 << 55)


# -- memory


def test_errors_of_memory():
    with pytest.raises(RuntimeError) as error:
        out_of_memory()
    assert is_out_of_memory(error.value)
    for other in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):
        assert is_out_of_memory(other)
    for other in (RuntimeError("shape"), OSError(errno.ENOSPC, "No space left"), ValueError("out of memory")):
        assert not is_out_of_memory(other)


def test_training_without_memory(tmp_path, photos, brightness, monkeypatch):
    monkeypatch.setattr("vertebra.engine.trainee.Trainee.training_step", out_of_memory)
    with pytest.raises(
        VertebraError, match=r"the CPU ran out of memory: lower data\.batch_size \(and raise accumulate\)"
    ):
        vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK)


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("train", "lower --data.batch_size (and raise --accumulate), or set --checkpointing."),
        ("evaluate", "lower --data.batch_size or --data.workers."),
        ("predict", "lower --batch_size, or cut large images with --tile."),
        ("data", "use smaller images."),
    ],
)
def test_commands_without_memory(monkeypatch, capsys, verb, hint):
    monkeypatch.setattr(f"vertebra.cli.{verb}.run", out_of_memory)
    assert main([verb]) == 2
    assert capsys.readouterr().err == f"vertebra: there is not enough memory: {hint}\n"


def test_warnings_are_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command changes
    monkeypatch.setattr("vertebra.cli.data.run", lambda _: None)
    assert main(["data"]) == 0
    assert warnings.formatwarning("mind this", UserWarning, "a.py", 3) == "vertebra: mind this\n"


# -- disk


class FullDisk:
    """A file of TensorBoard's, on a disk without space."""

    def write(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = close = write


def test_a_disk_that_is_full_for_tensorboard(tmp_path, photos, brightness, monkeypatch):
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "RecordWriter", lambda *_: FullDisk())
    printed: list = []
    hook = printed.append
    monkeypatch.setattr(threading, "excepthook", hook)
    with pytest.raises(VertebraError, match=r"run could not be saved \(No space left on device\): free some space"):
        vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK)
    assert not printed  # the traceback of TensorBoard's thread
    assert threading.excepthook is hook


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, r"could not be saved \(No space left on device\): free some space and resume\."),
        (errno.EROFS, r"could not be saved \(Read-only file system\): choose a folder that can be written\."),
        (errno.EIO, r"could not be saved \(Input/output error\)\."),
    ],
)
def test_hints_for_files_that_cannot_be_saved(tmp_path, number, hint):
    with pytest.raises(VertebraError, match=hint), replacing(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "No space left on device"),
        ("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0", r"\[enforce fail .* unexpected pos .*"),
    ],
)
def test_libraries_have_their_own_words_for_a_full_disk(tmp_path, text, reason):
    sentence = rf"a could not be saved \({reason}\): free some space and resume\."
    with pytest.raises(VertebraError, match=sentence), replacing(tmp_path / "a"):
        raise RuntimeError(text)


# -- leftovers


def test_leftovers_of_ended_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        kept = [".mine.tmp", ".a.b.tmp", "last.ckpt", f".last.ckpt.{living.pid}.tmp"]
        gone = [f".last.ckpt.{ended.pid}.tmp", f".best.safetensors.{10**30}.tmp", f".config.yaml.{os.getpid()}.tmp"]
        for name in (*kept, *gone):
            (tmp_path / name).touch()
        with held(tmp_path / "first") as temporary:  # by the first save in the folder
            temporary.touch()
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, temporary.name])
            (tmp_path / gone[0]).touch()
            remove_leftovers(tmp_path)
            assert temporary.exists()
            assert not (tmp_path / gone[0]).exists()
        living.communicate(b"\n")


def test_a_resumed_run_removes_leftovers_before_it_trains(tmp_path, photos, brightness, monkeypatch):
    run = vertebra.train(brightness, data=photos, output=tmp_path / "run", **QUICK).folder
    leftover = run / f".last.ckpt.{10**30}.tmp"
    leftover.touch()
    monkeypatch.setattr("lightning.Trainer.fit", out_of_memory)
    with pytest.raises(VertebraError):
        vertebra.train(brightness, data=photos, resume=run, epochs=2)
    assert not leftover.exists()


# -- several processes


ENDLESS = (
    *("train", "classification", "--data.image_size=32", "--device=cpu", "--epochs=500"),
    *("--data.batch_size=20", "--data.workers=0"),
)
WHOLE = ("--model.backbone=resnet18", "--model.backbone_options={depths: [1, 1, 1, 1]}")
DIVIDED = ("--model.backbone=vit_tiny_16", "--model.backbone_options.depth=2", "--strategy=fsdp", "--optimizer=adamw")


@pytest.mark.slow
def test_a_process_that_the_command_started_is_killed(tmp_path, photos):
    """The command ends too, with one sentence and no traceback."""
    words = [*ENDLESS, *WHOLE, f"--data.path={photos}", "--processes=2", f"--output={tmp_path / 'run'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    with subprocess.Popen(
        [sys.executable, "-m", "vertebra", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(other), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("vertebra: process 2 of 2 was killed by SIGKILL")
    assert said.count("\n") == 1


def test_a_killed_process_is_reported(tmp_path, capsys):
    with subprocess.Popen(["sleep", "60"]) as process:
        started = SimpleNamespace(launcher=SimpleNamespace(procs=[process]))
        observer = processes._Observer(SimpleNamespace(strategy=started, world_size=2), tmp_path)
        observer.start()
        assert not observer.reported
        process.kill()
        observer.join(30)
    assert observer.end()
    assert capsys.readouterr().err == "vertebra: process 2 of 2 was killed by SIGKILL.\n"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_of_two(tmp_path, photos, killed):
    """As torchrun starts them: the other one ends too, with one sentence and no traceback. A divided model is continued
    as a whole one."""
    run = tmp_path / "run"
    words = [*ENDLESS, *(WHOLE, DIVIDED)[killed], f"--data.path={photos}", f"--output={run}"]
    with started_together(words, tmp_path, 2) as processes:
        wait_for(f"epoch {1 + killed}/", processes[0], tmp_path / "0")  # the state is written after the line
        processes[killed].kill()
        other = processes[1 - killed]
        other.join(60)
    assert other.exitcode == 2
    said = (tmp_path / str(1 - killed) / "err.txt").read_text()
    assert said.startswith("vertebra: another process of this run ended unexpectedly")
    assert said.count("\n") == 1
    if killed:
        epochs = int((run / "metrics.csv").read_text().splitlines()[-1].split(",")[0])
        resumed = [f"--resume={run}", "--strategy=ddp", "--processes=1", f"--epochs={epochs + 1}"]
        assert main(["train", "classification", *resumed]) == 0
