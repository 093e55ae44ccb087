"""Cameras of this machine, by their index."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from vertebra.errors import VertebraError
from vertebra.predict import sources, video

PRIORITY = 20
DESCRIPTION = "a camera's index such as 0"
IN_LISTS = False
DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""By platform, FFmpeg's input format for cameras, and the name of a device."""
SECONDS = 10
"""Longest time without a frame."""


def recognise(word: str) -> bool:
    return word.isascii() and word.isdigit() and not Path(word).exists()


def expand(word: str) -> Iterator[sources.Source]:
    index = int(word[:9])
    if sys.platform not in DEVICES:
        raise VertebraError(f"camera {index}: cameras are read on Linux and macOS.")
    format, device = DEVICES[sys.platform]
    address = device.format(index)
    if address.startswith("/") and not Path(address).exists():
        raise VertebraError(f"camera {index}: there is no {address} on this machine.")
    if format not in video.library().formats_available and not _reads(format):
        raise VertebraError(f"camera {index}: this build of PyAV does not read cameras ({format}).")
    yield sources.VideoSource(f"camera-{index}", address, live=True, arguments={"format": format, "timeout": SECONDS})


def _reads(format: str) -> bool:
    """Whether FFmpeg knows an input format, by any of its names."""
    try:
        return bool(video.library().format.ContainerFormat(format).is_input)
    except ValueError:
        return False
