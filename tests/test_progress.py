"""A bar on a terminal, nothing in a pipe."""

import io
import re
from contextlib import redirect_stdout

import pytest

from vertebra.progress import busy, clock, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """A terminal of 80 columns, to be used with `redirect_stdout`."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_nothing_is_printed_in_a_pipe(capsys):
    assert list(track([1, 2, 3], "evaluating")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_how_many_are_done(terminal):
    with redirect_stdout(terminal):
        for item in track(["ab", "cde"], "evaluating", 5, size=len):
            print(f"line {item}")
    shown = terminal.getvalue()
    assert "evaluating" in shown
    assert "5/5" in shown  # the sizes of the items, not their number
    assert "left" in shown
    assert shown.count("line ab\n") == 1


def test_the_rate_of_what_is_counted(terminal):
    patches = [0]
    with redirect_stdout(terminal):
        for _ in track([1, 2], "refining", counted=(lambda: patches[0], "patches")):
            patches[0] += 5
    assert re.search(r"\d patches/s", terminal.getvalue())
    assert "2/2" in terminal.getvalue()


def test_of_items_without_a_length_the_elapsed_time_is_shown(terminal):
    with redirect_stdout(terminal):
        assert list(track(iter("abc"), "predicting")) == ["a", "b", "c"]
    assert "left" not in terminal.getvalue()
    assert "3/?" in terminal.getvalue()


def test_what_cannot_be_counted(terminal, capsys):
    with busy("computing"):
        pass
    assert capsys.readouterr() == ("", "")
    with redirect_stdout(terminal), busy("computing"):
        pass
    assert "computing" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--"), (0.4, "0:00"), (75, "1:15"), (3599.7, "1:00:00"), (90061, "25:01:01")]
)
def test_durations(seconds, text):
    assert clock(seconds) == text
