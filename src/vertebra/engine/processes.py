"""Several processes of one run: when one of them ends, one of them says why, and none of them waits for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import lightning as L
from torch import distributed

from vertebra.errors import VertebraError, first_line

LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|socket", re.IGNORECASE)
"""In the errors of a process whose partner has ended."""


@contextlib.contextmanager
def observed(trainer: L.Trainer, folder: Path, timeout: float) -> Iterator[None]:
    """A block in which the trainer fits, whose processes wait `timeout` minutes for one another.

    Raises:
        VertebraError: if another process has not arrived, or has ended unexpectedly.
        SystemExit: if another process has failed and says so.
    """
    with _without_writer_threads():
        if trainer.world_size == 1:
            yield
            return
        observer = _Observer(trainer, folder)
        observer.start()
        try:
            yield
        except Exception as error:
            if isinstance(error, distributed.DistError) and not distributed.is_initialized():
                if trainer.local_rank:  # the first process of each machine says it
                    time.sleep(5)
                    raise SystemExit(2) from error
                raise VertebraError(_absent(error, trainer.world_size, timeout)) from error
            lost = isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
            failure = VertebraError(observer.sentence()) if lost else error
            if observer.end() or (lost and any(process.poll() == 2 for process in observer.processes)):
                raise SystemExit(2) from error
            if not _first_to_fail(trainer.global_rank):
                time.sleep(5)  # while the first one speaks; torchrun ends all when one has ended
                raise SystemExit(2) from error
            raise failure from error
        finally:
            observer.end()
            if sys.exc_info()[0] is not None:
                observer.kill()


def _absent(error: Exception, processes: int, timeout: float) -> str:
    """The sentence on processes that have not met."""
    joined = re.search(r"(\d+)/\d+ clients joined", str(error))
    count = f"{joined[1]} of the {processes}" if joined else f"not all of the {processes}"
    place = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    if "timed out" not in str(error).lower():
        return f"the {processes} processes of this run cannot meet at {place} ({first_line(error)})."
    return (
        f"{count} processes of this run have arrived at {place} within {timeout:g} minutes: start the others with this "
        "address, or wait longer with --timeout=MINUTES."
    )


class _Observer(threading.Thread):
    """Says when a process that this one has started is killed; Lightning then ends this one, which may be waiting."""

    def __init__(self, trainer: L.Trainer, folder: Path) -> None:
        super().__init__(daemon=True)
        self.trainer, self.folder = trainer, folder
        self.ended = threading.Event()
        self.reported = False
        self.lock = threading.Lock()

    @property
    def processes(self) -> list[Popen]:
        """Those that Lightning has started; none under torchrun."""
        return list(getattr(self.trainer.strategy.launcher, "procs", []))

    def run(self) -> None:
        while not self.ended.wait(0.2):
            if any((process.poll() or 0) < 0 for process in self.processes):
                with self.lock:
                    if not self.ended.is_set():
                        print(f"vertebra: {self.sentence()}", file=sys.stderr, flush=True)
                        self.reported = True
                return

    def end(self) -> bool:
        """Stops it; returns whether it has reported anything."""
        with self.lock:
            self.ended.set()
        return self.reported

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def sentence(self) -> str:
        """On the process that has ended."""
        cause = "another process of this run ended unexpectedly"
        for rank, process in enumerate(self.processes, 1):
            with contextlib.suppress(TimeoutExpired):
                code = process.wait(1)
                if code < 0:
                    cause = (
                        f"process {rank + 1} of {self.trainer.world_size} was killed by {signal.Signals(-code).name}"
                    )
        kept = (self.folder / "last.ckpt").exists()
        return f"{cause}{f'; continue with --resume={self.folder}' if kept else ''}."


def _first_to_fail(rank: int) -> bool:
    """Whether this process is the first under torchrun to fail, and so the one to say why."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not distributed.is_initialized():
        return True
    store = distributed.distributed_c10d._get_default_store()
    return bool(store.compare_set("vertebra/failed", "", str(rank)).decode() == str(rank))


@contextlib.contextmanager
def _without_writer_threads() -> Iterator[None]:
    """Keeps silent the threads that cannot write a logger's file: TensorBoard raises their error here as well."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
