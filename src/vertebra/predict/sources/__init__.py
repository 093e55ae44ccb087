"""Where images come from. A module of this folder that has PRIORITY is a kind of source; nothing is registered.

A module has
- PRIORITY: its place in the order of recognition, lowest first; the first module that recognises a word expands it;
- DESCRIPTION: the words that it recognises, for messages;
- IN_LISTS: whether a line of a list may be such a word;
- recognise(word) -> bool: whether a word of the user, such as a path or a URL, is one;
- expand(word) -> Iterable[Source]: the images and videos that it stands for. Nothing is decoded.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from types import ModuleType
from typing import Any

from torch import Tensor

from vertebra.images import ImageBytes, UnreadableImage, image_size, read_image
from vertebra.predict import video


@dataclass
class ImageSource:
    """One image."""

    name: str
    """Its path or URL; empty for pixels."""
    image: Any
    """What `read_image` takes."""

    def fetch(self) -> ImageSource:
        """The image where it can be read as often as need be; UnreadableImage if it cannot be had."""
        return self

    def read(self, channels: int) -> Tensor:
        """The image: [channels, H, W] uint8; UnreadableImage if it cannot be read."""
        return read_image(self.image, channels)


class EncodedImage(ImageSource):
    """One image in the bytes of its file."""

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, from its header alone; UnreadableImage if it is no image."""
        return image_size(ImageBytes(self.name, self.image))

    def read(self, channels: int) -> Tensor:
        return read_image(ImageBytes(self.name, self.image), channels)

    def __repr__(self) -> str:
        return f"EncodedImage({self.name!r}, {len(self.image):,} bytes)"


@dataclass
class VideoSource:
    """A video file, a camera or a stream: frames that come one after another."""

    name: str
    """Its path or URL, without a password."""
    address: str | Path
    """What FFmpeg opens."""
    live: bool = False
    """Whether it has no end. Frames that come faster than they are taken are passed over."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of `video.open_video`."""

    def open(self) -> AbstractContextManager[video.Video]:
        """The video; errors as of `video.open_video`."""
        return video.open_video(self.address, self.name, **self.arguments)

    def frames(self, every: int = 1) -> Iterator[tuple[VideoFrame, Tensor]]:
        """Every `every`-th frame and its pixels [3, H, W] uint8; UnreadableImage after the last good one."""
        with self.open() as opened:
            numbered = opened.read(every)
            total = -(-opened.frames // every)
            for index, pixels in _newest(numbered) if self.live else numbered:
                yield VideoFrame(self, index, opened.rate / every, total), pixels


@dataclass
class VideoFrame:
    """A frame of a video, without its pixels."""

    source: VideoSource
    index: int
    """From 0."""
    rate: Fraction
    """Frames per second, of those that are taken."""
    total: int
    """Number of those that are taken; 0 if it is not known."""

    @property
    def name(self) -> str:
        """Of the video, and the index."""
        return f"{self.source.name}#{self.index}"

    def read(self, channels: int) -> Tensor:
        """As `ImageSource.read`: a file is decoded again up to this frame."""
        if not isinstance(self.source.address, Path):
            raise UnreadableImage(f"{self.name}: this frame is no longer in memory; draw it before the next one.")
        with self.source.open() as opened:
            return read_image(next(pixels for index, pixels in opened.read() if index == self.index), channels)


Source = ImageSource | VideoSource


def _newest(frames: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """The frames, read in a thread; at each step the newest one, those in between are passed over."""
    queue: Queue[tuple[int, Tensor] | UnreadableImage | None] = Queue(1)
    closed = threading.Event()

    def offer(item: tuple[int, Tensor] | UnreadableImage | None) -> None:
        with suppress(Empty):
            queue.get_nowait()
        queue.put(item)

    def read() -> None:
        try:
            for frame in frames:
                if closed.is_set():
                    return
                offer(frame)
            queue.put(None)
        except UnreadableImage as error:
            queue.put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, UnreadableImage):
                raise item
            yield item
    finally:
        closed.set()
        with suppress(Empty):
            queue.get_nowait()  # the thread may be waiting for room
        thread.join()  # before the video is closed


@cache
def modules() -> list[ModuleType]:
    """The kinds of sources, in the order of recognition."""
    files = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return sorted(files, key=lambda module: module.PRIORITY)


def expand(word: Any, *, in_list: bool = False) -> Iterator[Source]:
    """The images and videos that a path, a URL or another word of the user stands for, or an image in memory.

    Args:
        word: a str, a Path, the number of a camera, or what `read_image` takes.
        in_list: whether the word is a line of a list.

    Raises:
        UnreadableImage: if it stands for none.
    """
    if isinstance(word, ImageSource | VideoSource):
        yield word
    elif isinstance(word, str | int):
        usable = (module for module in modules() if module.IN_LISTS or not in_list)
        yield from next(module for module in usable if module.recognise(str(word))).expand(str(word))
    elif isinstance(word, Path):
        yield from importlib.import_module(f"{__name__}.files").expand(str(word))
    else:
        yield ImageSource("", word)


def expand_lines(text: str, folder: Path = Path()) -> Iterator[Source]:
    """The images and videos of a list with one path or URL per line; paths that do not exist are looked for in
    `folder`."""
    for line in filter(None, map(str.strip, text.splitlines())):
        beside = folder / line
        word = str(beside) if not Path(line).exists() and beside.exists() else line
        try:
            yield from expand(word, in_list=True)
        except UnreadableImage:
            yield ImageSource(word, Path(word))  # which is reported when it is read, and passed by
