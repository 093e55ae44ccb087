"""A worker process that fails ends the run with one sentence; a full shared memory does not."""

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from vertebra import kinds
from vertebra.data import inputs, workers
from vertebra.data.augment.category import CategoryAugment
from vertebra.data.catalogue import Sample
from vertebra.data.loader import loader
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess, Target


def batches(count: int = 8, *, training: bool = False, size: int = 16, number: int = 2):
    data = [Sample(torch.full((3, 20, 20), i, dtype=torch.uint8), Target(label=torch.tensor(i))) for i in range(count)]
    more = {"augment": CategoryAugment()} if training else {}
    kind, preprocess = kinds.find("category"), Preprocess(size=(size, size))
    return loader(data, preprocess, kind, num_classes=count, batch_size=2, workers=number, **more)


def failing(monkeypatch, fail) -> None:
    """Reading the image of class 5 calls `fail`."""

    def read(sample, channels, fields, read=inputs.read_example):
        return fail() if int(sample.target.label) == 5 else read(sample, channels, fields)

    monkeypatch.setattr(inputs, "read_example", read)


def raising(error: Exception):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "a worker process that reads images was killed by SIGKILL: the system does that when memory runs out, so "
            "lower data.workers or data.batch_size.",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was killed by SIGSEGV: data.workers=0 shows where it crashes."),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "was killed by SIGBUS: a file became shorter while it was read"),
        (lambda: os._exit(3), "a worker process that reads images ended with exit status 3: data.workers=0 reads"),
        (raising(VertebraError("a.png: no.\nTwo lines: yes.")), "a.png: no.\nTwo lines: yes."),
        (
            raising(KeyError("colour")),
            "a worker process failed (KeyError: 'colour'); with data.workers=0 the error shows where.",
        ),
        (raising(MemoryError()), "a worker process ran out of memory: lower data.workers or data.batch_size."),
    ],
    ids=["killed", "crashed", "bus", "exit", "our error", "another error", "memory"],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_worker_that_fails(monkeypatch, training, fail, sentence):
    failing(monkeypatch, fail)
    read = batches(training=training)
    iterator = getattr(read, "loader", read)
    known: set[int] = set()  # to torch
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_set_worker_pids", lambda key, _: known.add(key))
    monkeypatch.setattr("vertebra.data.workers._remove_worker_pids", known.remove)
    began = time.monotonic()
    with pytest.raises(VertebraError) as error:
        list(read)
    assert not known
    assert sentence in str(error.value)
    assert "Traceback" not in str(error.value)
    assert time.monotonic() - began < 4  # torch looks every five seconds
    assert iterator._iterator is None


def test_a_worker_that_ends_without_a_word(monkeypatch):
    iterator = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.2,))  # seconds between looks at the workers
    failing(monkeypatch, lambda: os._exit(0))
    with pytest.raises(VertebraError, match="a worker process that reads images ended with exit status 0"):
        list(batches())


def test_no_other_moment_is_disturbed():
    """A worker is killed while this process saves a file, say; it is noticed with the next batch."""
    read = batches(40)
    iterator = iter(read)
    next(iterator)
    worker = read._iterator._workers[0]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:  # where torch's handler would raise
        pass
    with pytest.raises(VertebraError, match="was killed by SIGKILL"):
        next(iterator)
    assert not any(worker.is_alive() for worker in workers._workers(read._iterator))


KILLED = """
import multiprocessing, os, signal
from vertebra.data.workers import WorkerLoader
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(["vertebra.data.workers"])
    read = WorkerLoader(list(range(8)), num_workers=2, persistent_workers=True)
    next(iter(read))
    with open("pids", "w") as file:
        print(*[worker.pid for worker in read._iterator._workers], file=file)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_fork_server_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    assert subprocess.run([sys.executable, "killed.py"], cwd=tmp_path).returncode == -signal.SIGKILL
    alive = [Path("/proc", pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 20
    while any(path.exists() for path in alive) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(alive) == 2
    assert not any(path.exists() for path in alive)


def test_workers_that_cannot_be_started(monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.multiprocessing.Queue", fail)
    with pytest.raises(VertebraError, match=r"worker processes cannot be started \(.*No space left.*data.workers=0"):
        list(batches())


def test_errors_without_workers_are_as_they_are(monkeypatch):
    failing(monkeypatch, raising(KeyError("colour")))
    with pytest.raises(KeyError, match="colour"):
        list(batches(number=0))


Status = namedtuple("Status", "f_bavail f_frsize")


@pytest.mark.parametrize("full", ["before", "while"])
def test_without_shared_memory_batches_come_through_pipes(monkeypatch, full):
    expected = [batch.images for batch in batches(size=128, number=0)]
    if full == "before":
        monkeypatch.setattr(workers.os, "statvfs", lambda _: Status(100, 4096))
    else:
        no_room = RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        )
        monkeypatch.setattr(torch.Tensor, "share_memory_", lambda _: raising(no_room)())
    with pytest.warns(
        UserWarning, match="/dev/shm has no room for the batches of the worker processes, 0 MB each"
    ) as w:
        sent = list(batches(size=128))
    assert all(torch.equal(batch.images, images) for batch, images in zip(sent, expected, strict=True))
    assert not [batch for batch in sent if batch.images.is_shared()]
    assert {warning.lineno for warning in w} == {w[0].lineno}  # so that Python prints it once


def test_large_tensors_share_memory_and_small_ones_do_not():
    for batch in batches(size=128):
        assert batch.images.is_shared()
        assert not any(target.label.is_shared() for target in batch.targets)
    assert isinstance(workers.pack(torch.zeros(3)), np.ndarray)
