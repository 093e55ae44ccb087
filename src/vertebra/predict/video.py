"""Films, frame by frame: reading them, and writing annotated ones. With PyAV, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import VertebraError, first_line
from vertebra.pictures import BrokenPicture

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
"""File name endings that are taken for films, in lower case."""
ENDS = 0.9
"""Share of a film's length, which its sound may give, after which the pictures may end."""
ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""The first that is there writes films."""


def library() -> Any:
    """PyAV; VertebraError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise VertebraError(
            "films are read with PyAV, which is not installed: pip install 'vertebra[video]'"
        ) from error
    return av


@dataclass(frozen=True)
class Film:
    """A film that can be opened."""

    path: Path
    rate: Fraction
    """Frames per second."""
    frames: int
    """How many the file says there are; 0 if it does not."""
    seconds: float
    """How long the file says it is; 0 if it does not."""


def look(path: Path) -> Film:
    """What a film's own header says.

    Raises:
        BrokenPicture: if it cannot be opened, or has no pictures in it.
        VertebraError: if PyAV is not installed.
    """
    av = library()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BrokenPicture(f"{path}: there are no pictures in this film.")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            return Film(path, rate, stream.frames, (container.duration or 0) / av.time_base)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, BrokenPicture):
            raise
        raise BrokenPicture(f"{path}: cannot be opened as a film ({_reason(error)}).") from error


def frames(film: Film, every: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Each `every`-th frame, from the first: its number from 0, and [3, H, W] uint8, upright.

    One frame is held at a time.

    Raises:
        BrokenPicture: after the last good frame, if the film is damaged or cut short.
    """
    av = library()
    number, seconds = 0, 0.0
    try:
        with av.open(str(film.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if number % every == 0:
                    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
                    turns = round(getattr(frame, "rotation", 0) / 90)  # as a telephone was held
                    yield number, torch.from_numpy(np.rot90(pixels, turns).transpose(2, 0, 1).copy())
                number, seconds = number + 1, frame.time or 0.0
    except (av.error.FFmpegError, OSError) as error:
        raise BrokenPicture(f"{film.path}: cannot be decoded after {number} frames ({_reason(error)}).") from error
    short = not film.seconds or seconds < ENDS * film.seconds - 1 / film.rate
    if number < film.frames and short:  # of a film that was trimmed, the file still counts what was cut off
        raise BrokenPicture(f"{film.path}: is cut short after {number} of {film.frames} frames.")
    if not film.frames and film.seconds and short:
        raise BrokenPicture(f"{film.path}: is cut short after {seconds:.1f} of {film.seconds:.1f} seconds.")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def encoder() -> str:
    """What writes films here, H.264 where that is to be had; empty if nothing does."""
    av = library()
    for name in ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    return ""


class Writer:
    """Writes pictures as an MP4 film by `encoder`. A context, whose file is whole when it ends."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.container: Any = None

    def __enter__(self) -> Writer:
        return self

    def add(self, picture: Image.Image) -> None:
        """Writes one RGB picture; all are brought to the size of the first, its sides made even by black pixels."""
        av = library()
        if self.container is None:
            self.container = av.open(str(self.path), "w", format="mp4")
            self.stream = self.container.add_stream(encoder(), rate=self.rate.limit_denominator(65535))
            self.size = picture.size
            self.stream.width, self.stream.height = (side + side % 2 for side in self.size)
            self.stream.pix_fmt = "yuv420p"
            self.stream.options = {"crf": "18"}  # a loss that is hardly seen; other encoders than libx264 pass it by
            self.stream.bit_rate = 8_000_000  # what those aim at instead
        canvas = Image.new("RGB", (self.stream.width, self.stream.height))
        canvas.paste(picture if picture.size == self.size else picture.resize(self.size))
        for packet in self.stream.encode(av.VideoFrame.from_image(canvas)):
            self.container.mux(packet)

    def __exit__(self, *error: Any) -> None:
        if self.container is not None:
            if error[0] is None:
                for packet in self.stream.encode():
                    self.container.mux(packet)
            self.container.close()
