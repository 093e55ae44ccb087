"""Runs cases, each in a folder of its own, within bounds of time and memory, and judges what came of them.

A case is a function of its surface, the seed and its number alone.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

SECONDS = 10.0
"""Of computation in one case, a hundred times what most take."""
WAIT = 120.0
"""Seconds after which a case hangs, however busy the machine is."""
BYTES = 1 << 30
"""Of memory that one case may take beyond what its process has; most take a hundredth."""
ADDRESSES = 8 << 30
"""Of address space that a process may take beyond what it has at first; threads reserve some."""
LENGTH = 1000
"""Characters of a sentence, the case's own folder apart."""
REPORTED = re.compile(r"problem: |skipped|could not be read|note: .*(ignored|left out|not read|dropped)")
"""Words of a command that does not pass over what is wrong."""


@dataclass(frozen=True)
class Case:
    """What is done with malformed input."""

    action: Sequence[object] | Callable[[], object]
    """Words of the command line; or a function, which raises VertebraError as a command does."""
    nonsense: str = ""
    """What has to be refused, or reported as a problem; empty if it may also be read as something."""


Surface = Callable[[Random, Path], Case]
"""Writes the input of a case into an empty folder."""


@dataclass(frozen=True)
class Outcome:
    surface: str
    number: int
    seconds: float
    said: str
    """The sentence of a refusal, or the end of the output."""
    bad: str = ""
    """What is wrong with it; empty if nothing is."""


@cache
def surfaces() -> dict[str, Surface]:
    """All surfaces by name."""
    from tests.fuzz import checkpoints, configs, datasets, images, results, runs

    return {
        name: surface
        for m in (datasets, images, checkpoints, configs, results, runs)
        for name, surface in m.SURFACES.items()
    }


@cache
def template_folder() -> Path:
    """Of the cases, and of valid input that is costly to make, once for all of them."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a worker
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


class _TimeOver(BaseException):
    pass


def _time_over(signal_number: int, frame: FrameType | None) -> None:
    raise _TimeOver


def run_case(surface: str, seed: int, number: int) -> Outcome:
    """One case, in this process."""
    folder = Path(tempfile.mkdtemp(dir=template_folder()))
    before = os.getcwd()
    started = time.monotonic()
    try:
        case = surfaces()[surface](Random(f"{surface} {seed} {number}"), folder)
        os.chdir(folder)
        started, memory = time.monotonic(), _memory(reset=True)
        status, out, error = _perform(case)
        memory = _memory() - memory
        bad = _judge(case, status, out, error, folder)
        bad = bad or (f"takes {memory >> 20:,} MB of memory" if memory > BYTES else "")
        said = (error or out).strip()
        return Outcome(surface, number, time.monotonic() - started, said[-2000:].replace(str(folder), "."), bad)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def _memory(*, reset: bool = False) -> int:
    """Most bytes that this process has had in memory, or has now with `reset`."""
    if reset:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _perform(case: Case) -> tuple[int | str, str, str]:
    """Exit status, or the traceback in its place, and what was printed."""
    from vertebra.cli import main
    from vertebra.errors import VertebraError

    out, error = io.StringIO(), io.StringIO()
    status: int | str
    limits = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, WAIT)}
    for timer, (number, seconds) in limits.items():
        signal.signal(number, _time_over)
        signal.setitimer(timer, seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if callable(case.action):
                try:
                    case.action()
                    status = 0
                except VertebraError as refusal:
                    print(f"vertebra: {refusal}", file=sys.stderr)
                    status = 2
            else:
                status = main([str(word) for word in case.action])
    except _TimeOver:
        status = f"takes more than {SECONDS:g} s, or hangs:\n{traceback.format_exc()}"
    except SystemExit as end:
        status = f"exit status {end.code}"
    except BaseException:
        status = traceback.format_exc()
    finally:
        for timer in limits:
            signal.setitimer(timer, 0)
    return status, out.getvalue(), error.getvalue()


def _judge(case: Case, status: int | str, out: str, error: str, folder: Path) -> str:
    if isinstance(status, str):
        return status
    if "Traceback" in out + error:
        return "prints a traceback"
    if os.path.lexists(folder / "exploded"):
        return "ran code"
    if status == 2:
        sentence = error.replace(str(folder), ".")
        if not error.startswith("vertebra: ") or error.count("\n") != 1:
            return "prints more than one line of error, or another"
        if len(sentence) > LENGTH:
            return f"a sentence of {len(sentence):,} characters"
        if any(ord(c) < 32 for c in error.rstrip("\n")):
            return "prints control characters"
        return "runs out of memory" if "not enough memory" in error else ""
    if status != 0:
        return f"exit status {status}"
    if case.nonsense and not REPORTED.search(out + error):
        return f"passes over what is wrong: {case.nonsense}"
    return ""


def sweep(surface: str, numbers: Sequence[int], seed: int) -> Iterator[Outcome]:
    """The outcomes of cases, run in forked processes, each until one ends or hangs it."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        surfaces()[surface](Random(0), Path(folder))  # makes what the cases of this surface share
    gc.freeze()  # what processes have in common stays so
    context = multiprocessing.get_context("fork")
    left = list(numbers)
    while left:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(surface, left, seed, sender), daemon=True)
        process.start()
        sender.close()
        try:
            while left:
                if not receiver.poll(WAIT + 10):
                    raise EOFError
                yield receiver.recv()
                del left[0]
        except EOFError:
            if process.is_alive():
                process.kill()
            process.join()
            yield Outcome(surface, left.pop(0), WAIT, "", f"ended or hung the process ({process.exitcode})")
        finally:
            receiver.close()
            process.join(5)
            if process.is_alive():
                process.kill()


@cache
def warm_up() -> None:
    """Imports, and makes what cases share, before processes are forked."""
    from tests.fuzz import checkpoints, datasets

    from vertebra.cli import main

    photos = template_folder() / "photos"
    datasets.write_photos(photos)
    for path in (checkpoints.classifier(), checkpoints.detector()):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["predict", str(path), str(photos), "--device=cpu"]) == 0


class _SignalStack(ctypes.Structure):
    """Of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _work(surface: str, numbers: Sequence[int], seed: int, sender: Any) -> None:
    # The stack that pytest's faulthandler has set apart for signals, 12 kB, is too small for the first one after many
    # libraries were loaded.
    ctypes.CDLL(None).sigaltstack(ctypes.byref(_SignalStack(None, 2, 0)), None)  # 2 is SS_DISABLE
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for number in numbers:
        sender.send(run_case(surface, seed, number))
    sender.close()
