"""Reading text, and writing files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from vertebra.errors import VertebraError, first_line


def expanded(path: str | Path) -> Path:
    """With the user's own folder for a `~` at its beginning; as it is if there is no such user."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without the mark at its beginning that some editors write.

    Raises:
        VertebraError: if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VertebraError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well; else `path` stays as it was.

    Raises:
        VertebraError: if it cannot be written, a full disk for example.
    """
    with held(path) as temporary:
        try:
            yield temporary
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            raise _unsaved(Path(path), error) from error


@contextlib.contextmanager
def held(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a file that is open while much else is done, whose errors are not blamed on it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unsaved(path, error) from error
        yield temporary
        try:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # safetensors writes for the owner alone
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise _unsaved(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unsaved(path: Path, error: Exception) -> VertebraError:
    kept = " The one saved before is still whole." if path.exists() else ""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return VertebraError(f"{path} could not be saved ({reason}): free some space and resume.{kept}")
