"""Commands in processes of their own, forked from one that has imported what they need: that takes longest."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vertebra.cli.train", "vertebra.engine.train", "vertebra.viz.report"])


def _run(words: Sequence[str], environment: Mapping[str, str], output: Path, before: Callable[[], None]) -> None:
    from vertebra.cli import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers, as where a command starts by itself
    os.environ.update(environment)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))  # noqa: SIM115
    before()
    sys.exit(main(list(words)))


def nothing() -> None:
    """Before a command that is as it is."""


@contextmanager
def started(
    words: Sequence[str], output: Path, *, environment: Mapping[str, str] | None = None, before: Callable = nothing
) -> Iterator[BaseProcess]:
    """A process of the command line, which prints to `output`/out.txt and err.txt, until the block ends."""
    output.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_run, args=(words, environment or {}, output, before))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def started_together(words: Sequence[str], output: Path, count: int) -> Iterator[list[BaseProcess]]:
    """`count` processes of one run, as torchrun starts them, which print to `output`/RANK."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    common |= {"GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
    with ExitStack() as stack:
        processes = []
        for rank in range(count):
            environment = {key: str(value) for key, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            block = started(words, output / str(rank), environment=environment)
            processes.append(stack.enter_context(block))
        yield processes


def wait_for(line: str, process: BaseProcess, output: Path, seconds: float = 120.0) -> None:
    """Returns when a line that the process printed begins so."""
    end = time.monotonic() + seconds
    while not any(printed.startswith(line) for printed in printed_by(output)):
        assert process.is_alive(), (output / "err.txt").read_text()
        assert time.monotonic() < end, f"no line {line!r} in {seconds:g} s"
        time.sleep(0.05)


def printed_by(output: Path) -> list[str]:
    """Lines so far."""
    path = output / "out.txt"
    return path.read_text().splitlines() if path.exists() else []
