"""Progress of long loops: on a terminal a bar with the time left, below all that is printed; in a pipe nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

T = TypeVar("T")


def on_terminal() -> bool:
    """Whether standard output is a terminal, where a line can be drawn anew."""
    return sys.stdout.isatty()


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    *,
    size: Callable[[T], int] = lambda _: 1,
    counted: tuple[Callable[[], int], str] | None = None,
) -> Generator[T, None, None]:
    """The items, with a bar on a terminal that shows how many are done, their number per second and the time left.

    Args:
        description: what is done with them, such as `evaluating`.
        total: their number; `len(items)`, where items have a length, if None. Without either, no time left is shown.
        size: what an item adds to the number, such as the images of a batch.
        counted: what is shown per second in place of the items: how many there were so far, and their name.
    """
    if not on_terminal():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), _Rate(counted), _TimeLeft())
    with Progress(*columns, console=Console(), transient=True, expand=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Shows on a terminal what is done in the block, where no step of it can be counted."""
    with Console().status(description) if on_terminal() else nullcontext():
        yield


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss, or m:ss below an hour; dashes if it is not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Rate(ProgressColumn):
    def __init__(self, counted: tuple[Callable[[], int], str] | None) -> None:
        super().__init__()
        self.counted = counted

    def render(self, task: Task) -> Text:
        if self.counted:
            count, name = self.counted
            return Text(f"{count() / task.elapsed:.3g} {name}/s" if task.elapsed else "")
        return Text(f"{task.speed:.3g}/s" if task.speed else "")


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{clock(task.time_remaining)} left" if task.total else f"{clock(task.elapsed)}")
