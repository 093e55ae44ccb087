"""Worker processes that read batches: one sentence where one fails, and batches that reach this process in any case."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader

from vertebra.errors import VertebraError, first_line, is_out_of_memory

SHARED_MEMORY = "/dev/shm"
SMALL = 1 << 16
"""Bytes up to which a tensor is sent through a pipe: in shared memory, every tensor takes a file descriptor."""


class WorkerLoader(DataLoader):
    """A DataLoader whose iterator raises VertebraError when a worker process fails, and at no other moment.

    torch's own handler of SIGCHLD raises in the midst of whatever the process is doing, such as writing a file.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=_end_with_parent, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.num_workers:
            yield from super().__iter__()
            return
        try:
            with _watching(_workers(self._iterator)):
                iterator = super().__iter__()
        except Exception as error:
            raise self._failure(error) from error
        while True:
            try:
                with _watching(_workers(iterator)):
                    batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise self._failure(error, iterator) from error
            yield batch

    def _failure(self, error: Exception, iterator: Any = None) -> VertebraError:
        """Why no batch came; ends all workers, because one that is killed can keep the others waiting for a lock."""
        iterator = iterator or self._iterator
        workers = _workers(iterator)
        ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        if iterator is not None:
            iterator._shutdown = True
            if iterator._worker_pids_set:  # else torch refuses an iterator that gets the same id
                _remove_worker_pids(id(iterator))
                iterator._worker_pids_set = False
        self._iterator = None
        if ended:
            return VertebraError(_end(max(ended, key=abs)))
        if isinstance(error, OSError):
            return VertebraError(
                f"worker processes cannot be started ({first_line(error)}): set data.workers=0, or free some of "
                f"{SHARED_MEMORY}."
            )
        # torch puts the traceback in the worker into the message, and the message at its end.
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = str(error).rpartition(f"\n{name}: ")[2].strip()
        if isinstance(error, VertebraError):
            return VertebraError(text)
        if is_out_of_memory(error):
            return VertebraError("a worker process ran out of memory: lower data.workers or data.batch_size.")
        reason = f"{kind.__name__}: {text.splitlines()[0]}" if text else kind.__name__
        return VertebraError(f"a worker process failed ({reason}); with data.workers=0 the error shows where.")


def _workers(iterator: Any) -> Sequence[Any]:
    return getattr(iterator, "_workers", ())


def _end(exit_code: int) -> str:
    """The sentence on a worker process that has ended with this exit code, the negative of a signal's number."""
    if exit_code >= 0:
        cause, hint = f"ended with exit status {exit_code}", "data.workers=0 reads images in the main process."
    else:
        cause, hint = f"was killed by {signal.Signals(-exit_code).name}", "data.workers=0 shows where it crashes."
    if -exit_code == signal.SIGKILL:
        hint = "the system does that when memory runs out, so lower data.workers or data.batch_size."
    if -exit_code == signal.SIGBUS:
        hint = f"a file became shorter while it was read, or {SHARED_MEMORY} is full: lower data.workers."
    return f"a worker process that reads images {cause}: {hint}"


@contextlib.contextmanager
def _watching(workers: Sequence[Any]) -> Iterator[None]:
    """Raises in the block as soon as one of the worker processes ends by itself."""

    def check(*_: Any) -> None:
        if any(worker.exitcode for worker in workers):
            raise ChildProcessError

    if threading.current_thread() is not threading.main_thread():  # which alone handles signals
        check()
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, check)
    try:
        check()
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _end_with_parent(_: int) -> None:
    """Makes this worker process end when the process that reads its batches is killed.

    torch's workers see that by the id of their parent, which is another process where a fork server starts them.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def pack(tensor: Tensor) -> Tensor | np.ndarray:
    """A tensor for another process: in shared memory if it is large and there is room, else as an array."""
    if tensor.nbytes > SMALL and _has_room(tensor.nbytes):
        with contextlib.suppress(RuntimeError):  # other processes were faster
            return tensor.share_memory_()
    return tensor.numpy()


def unpack(sent: Tensor | np.ndarray) -> Tensor:
    """The tensor of `pack`, in the other process."""
    if isinstance(sent, Tensor):
        return sent
    if sent.nbytes > SMALL:
        warnings.warn(
            f"{SHARED_MEMORY} has no room for the batches of the worker processes, {sent.nbytes / 1e6:,.0f} MB each: "
            "they come through pipes, which is slower. Enlarge it, in Docker with --shm-size=8g.",
            stacklevel=2,
        )
    return torch.from_numpy(sent)


def _has_room(size: int) -> bool:
    """Whether shared memory has room for `size` bytes, and as much again for other processes."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # another system
        return True
    return status.f_bavail * status.f_frsize >= 2 * size
