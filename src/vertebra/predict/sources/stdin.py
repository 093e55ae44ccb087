"""Standard input: the bytes of one image file, or a path or URL per line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from vertebra.errors import VertebraError
from vertebra.predict import sources

PRIORITY = 10
DESCRIPTION = "- (standard input)"
IN_LISTS = False
MAX_BYTES = 1 << 30


def recognise(word: str) -> bool:
    return word == "-"


def expand(word: str) -> Iterator[sources.Source]:
    """Every image file has a zero byte, and no path has one."""
    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not content.strip():
        raise VertebraError("standard input is empty; it takes an image file, or a path or URL per line.")
    if len(content) > MAX_BYTES:
        raise VertebraError(f"standard input has more than {MAX_BYTES:,} bytes, the most that is read.")
    if b"\0" in content:
        yield sources.EncodedImage("stdin", content)
    else:
        yield from sources.expand_lines(os.fsdecode(content))
