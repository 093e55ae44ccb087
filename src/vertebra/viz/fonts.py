"""Fonts for the names of classes: DejaVu Sans, and for what it lacks an installed font."""

from __future__ import annotations

import importlib.util
import unicodedata
import warnings
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageDraw, ImageFont

from vertebra.errors import escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACEHOLDERS = ("adobeblank", "lastresort")
"""Beginnings of the names of fonts that have a box, or nothing, for every character."""
STYLES = ("bold", "italic", "oblique", "mono", "thin", "light", "black", "condensed", "serif")
"""Words in the file names of fonts that are taken only if there is no plain one."""


def drawable(text: str) -> str:
    """The text on one line, with the numbers (`\\u732b`) of characters that no font has; warns of the first of them."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _file_with(c) else _number(c) for c in escaped(text))


def length(text: str, size: int) -> float:
    """The width in pixels of what `drawable` returned, in letters of `size` pixels."""
    return sum(_font(file, size).getlength(part) for file, part in _runs(text))


def shortened(text: str, width: int, size: int) -> str:
    """What `drawable` returns, in `width` pixels at most: its middle is left out, as the end tells one file from
    another."""
    fitting = drawable(text)
    kept = len(fitting)
    while length(fitting, size) > width and kept:
        kept -= 1
        fitting = drawable(f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}")
    return fitting


def write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, *, size: int, fill: str) -> None:
    """Draws what `drawable` returned, from x to the right, its middle at the height y."""
    ascent, descent = _font(_dejavu(), size).getmetrics()
    for file, part in _runs(text):
        font = _font(file, size)
        pen.text((x, y + (ascent - descent) / 2), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def apply(figure: Figure) -> None:
    """Lets a figure of matplotlib use the fonts that the characters of its texts need."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        files = dict.fromkeys(file for file, _ in _runs(drawable(text.get_text())))
        if others := [file for file in files if file != _dejavu()]:
            for file in others:
                font_manager.fontManager.addfont(file)
            names = [font_manager.FontProperties(fname=file).get_name() for file in others]
            text.set_fontfamily(["DejaVu Sans", *names])


def _number(character: str) -> str:
    if not _missing:
        warnings.warn(
            f"no installed font has the character {character!r} of a name: it is drawn as its number, as are others "
            "like it; install a font that has it, such as one of the Noto fonts.",
            stacklevel=3,
        )
    _missing.add(character)
    return character.encode("unicode_escape").decode()


_missing: set[str] = set()


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """The text in parts of one font each: file of the font, and part."""
    if text.isascii():
        yield _dejavu(), text
        return
    for file, part in groupby(text, key=lambda c: _file_with(c) or _dejavu()):
        yield file, "".join(part)


@lru_cache(maxsize=16)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@cache
def _dejavu() -> str:
    """The file of DejaVu Sans, which matplotlib brings along; matplotlib itself takes long to import."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _file_with(character: str) -> str:
    """The file of a font that has the character; empty if there is none.

    A font that is in use already is preferred, so that a word is not drawn in several.
    """
    if character.isascii() or unicodedata.category(character) in ("Mn", "Me", "Cf"):  # a mark on the letter before it
        return _dejavu()
    code = ord(character)
    for file in _in_use:
        if code in _codes(file):
            return file
    for file in _installed():
        if code in _codes(file):
            _in_use.append(file)
            return file
    return ""


_in_use = [_dejavu()]


@cache
def _installed() -> list[str]:
    """The files of the fonts of this machine, plain ones first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(file: str) -> tuple[int, str]:
        name = Path(file).name.lower()
        return sum(style in name for style in STYLES), name

    files = [file for file in findSystemFonts() if not Path(file).name.lower().startswith(PLACEHOLDERS)]
    return sorted(files, key=rank)


@cache
def _codes(file: str) -> np.ndarray:
    """The characters that a font has, by their numbers: [N] uint32; none if it cannot be used."""
    from matplotlib.ft2font import FT2Font

    try:
        codes = FT2Font(file).get_charmap()
        _font(file, 16).getmask("a")  # which fonts of bitmaps alone refuse
    except (OSError, RuntimeError, ValueError):
        codes = {}
    return np.fromiter(codes, np.uint32, len(codes))  # a set would take ten times the memory
