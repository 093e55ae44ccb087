"""Videos, frame by frame: reading them, and writing annotated ones. Uses PyAV, an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import VertebraError, first_line
from vertebra.images import UnreadableImage

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
"""File name endings that are taken for videos, in lower case."""
MIN_SHARE = 0.9
"""A video is cut short if its frames end before this share of its duration, which its audio track may set."""
ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""In order of preference; the first that is available writes videos."""


def library() -> Any:
    """PyAV; VertebraError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise VertebraError(
            "videos are read with PyAV, which is not installed: pip install 'vertebra[video]'"
        ) from error
    return av


class Video:
    """A video that is open: what its header says, and its frames."""

    def __init__(self, container: Any, name: str) -> None:
        self.name = name
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        """Frames per second."""
        self.frames: int = self._stream.frames
        """Number of frames according to the file; 0 if it does not say."""
        self.seconds: float = (container.duration or 0) / library().time_base
        """Duration according to the file; 0 if it does not say."""

    def read(self, every: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Every `every`-th frame, from the first: its index from 0, and [3, H, W] uint8, upright.

        One frame is in memory at a time.

        Raises:
            UnreadableImage: after the last good frame, if the video is damaged or cut short, or the connection ends.
        """
        av = library()
        index, seconds = 0, 0.0
        try:
            for frame in self._container.decode(self._stream):
                if index % every == 0:
                    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
                    turns = round(getattr(frame, "rotation", 0) / 90)  # as the phone was held
                    yield index, torch.from_numpy(np.rot90(pixels, turns).transpose(2, 0, 1).copy())
                index, seconds = index + 1, frame.time or 0.0
        except (av.error.FFmpegError, OSError) as error:
            raise UnreadableImage(f"{self.name}: cannot be decoded after {index} frames ({_reason(error)}).") from error
        short = not self.seconds or seconds < MIN_SHARE * self.seconds - 1 / self.rate
        if index < self.frames and short:  # the file of a trimmed video still counts the frames that were cut off
            raise UnreadableImage(f"{self.name}: is cut short after {index} of {self.frames} frames.")
        if not self.frames and self.seconds and short:
            raise UnreadableImage(f"{self.name}: is cut short after {seconds:.1f} of {self.seconds:.1f} seconds.")


@contextmanager
def open_video(
    address: str | Path,
    name: str = "",
    *,
    protocols: str = "file",
    options: Mapping[str, str] | None = None,
    **more: Any,
) -> Iterator[Video]:
    """A video, by default a file.

    Args:
        address: a path, a URL or a device.
        name: of the video in messages; the address if empty.
        protocols: FFmpeg's names of those that may be used, with commas between: a file may name others by URL.
        options: of FFmpeg.
        more: further arguments of `av.open`, such as `timeout` in seconds.

    Raises:
        UnreadableImage: if it cannot be opened, or has no video stream.
        VertebraError: if PyAV is not installed.
    """
    av, name = library(), name or str(address)
    try:
        container = av.open(str(address), options={"protocol_whitelist": protocols, **(options or {})}, **more)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableImage(f"{name}: cannot be opened as a video ({_reason(error)}).") from error
    with container:
        if not container.streams.video:
            raise UnreadableImage(f"{name}: there is no video stream in this file.")
        yield Video(container, name)


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "ExitError":  # FFmpeg's word for it: immediate exit requested
        return "no answer in time"
    return getattr(error, "strerror", None) or first_line(error)


def encoder() -> str:
    """Name of the encoder that writes videos here, H.264 where available; empty if there is none."""
    av = library()
    for name in ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    return ""


class VideoWriter:
    """Writes images as an MP4 video with `encoder`. A context manager; the file is complete when it exits."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.container: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, image: Image.Image) -> None:
        """Writes one RGB image; all are resized to the size of the first, whose odd sides get a black edge."""
        av = library()
        if self.container is None:
            self.container = av.open(str(self.path), "w", format="mp4")
            self.stream = self.container.add_stream(encoder(), rate=self.rate.limit_denominator(65535))
            self.size = image.size
            self.stream.width, self.stream.height = (side + side % 2 for side in self.size)
            self.stream.pix_fmt = "yuv420p"
            self.stream.options = {"crf": "18"}  # visually nearly lossless; only libx264 knows the option
            self.stream.bit_rate = 8_000_000  # for the other encoders
        canvas = Image.new("RGB", (self.stream.width, self.stream.height))
        canvas.paste(image if image.size == self.size else image.resize(self.size))
        for packet in self.stream.encode(av.VideoFrame.from_image(canvas)):
            self.container.mux(packet)

    def __exit__(self, *error: Any) -> None:
        if self.container is not None:
            if error[0] is None:
                for packet in self.stream.encode():
                    self.container.mux(packet)
            self.container.close()
