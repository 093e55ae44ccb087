"""Image and video files, folders of them, and patterns such as `in/**/*.jpg`."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from vertebra.errors import VertebraError, escaped
from vertebra.images import SUFFIXES, UnreadableImage, find_images
from vertebra.predict import sources, video

PRIORITY = 90
DESCRIPTION = "a file, a folder or a pattern that matches one"
IN_LISTS = True


def recognise(word: str) -> bool:
    """Whatever no other source recognises."""
    return True


def expand(word: str) -> Iterator[sources.Source]:
    path = Path(word)
    if path.is_dir():
        files = find_images(path, (*SUFFIXES, *video.SUFFIXES))
        if not files:
            raise VertebraError(f"{path} holds no images ({', '.join(SUFFIXES)}).")
    elif path.exists():
        files = [path]
    else:
        files = []
        for match in map(Path, sorted(glob.glob(word, recursive=True))):
            files += find_images(match, (*SUFFIXES, *video.SUFFIXES)) if match.is_dir() else [match]
        if not files:
            others = ", ".join(module.DESCRIPTION for module in sources.modules() if module.__name__ != __name__)
            raise UnreadableImage(
                f"{escaped(word[:500])} is neither a file, a folder nor a pattern that matches one; other sources are "
                f"{others}."
            )
    for file in files:
        if file.suffix.lower() in video.SUFFIXES:
            yield sources.VideoSource(str(file), file)
        else:
            yield sources.ImageSource(str(file), file)
