"""Image files: damaged, with headers that claim too much, and of formats that are not read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from random import Random

from PIL import Image
from tests.fuzz import checkpoints, datasets, mutate
from tests.fuzz.sweep import Case

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "AVIF", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".gif", ".webp", ".bmp", ".tif", ".jpeg", ".PNG")
SIDES = (1, 2, 16, 33)
CLAIMED = (0, 1, 65_535, 100_000, 2_000_000, 178_956_970, 2**31 - 1, 2**32 - 1)


def valid(rng: Random) -> bytes:
    """An image of random size, mode and format."""
    while True:
        mode, kind = rng.choice(("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK", "LA", "F", "I")), rng.choice(FORMATS)
        size = (rng.choice(SIDES), rng.choice(SIDES))
        image = Image.effect_noise(size, 90).convert("RGB").convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = image.convert("I;16")
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind)
        except (OSError, ValueError, KeyError, SystemError):  # not every format has every mode
            continue
        return buffer.getvalue()


def png(width: int, height: int, data: bytes, colour: int = 2, bits: int = 8) -> bytes:
    """A PNG file whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def hostile(rng: Random) -> bytes:
    kind = rng.choice(("bytes", "bytes", "bytes", "png", "long", "whole"))
    if kind == "png":
        size = rng.choice(CLAIMED), rng.choice(CLAIMED)
        return png(*size, bytes(rng.choice((0, 100, 100_000))), rng.choice((0, 2, 3, 6, 7)), rng.choice((1, 8, 16, 3)))
    if kind == "long":  # complete, and narrow
        length = rng.choice((100_000, 1_000_000, 2_000_000))
        return rng.choice((png(length, 1, bytes(1 + length), 0), png(1, length, bytes(2 * length), 0)))
    raw = valid(rng)
    return raw if kind == "whole" else mutate.change_bytes(rng, raw)


def write(rng: Random, folder: Path) -> None:
    datasets.write_photos(folder)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(("a", "b", "é", "a b", "x" * 200, "\udcff")) + rng.choice(SUFFIXES)
        (folder / "cat" / name).write_bytes(hostile(rng))


def data(rng: Random, folder: Path) -> Case:
    write(rng, folder / "photos")
    return Case(["data", "photos"])


def predict(rng: Random, folder: Path) -> Case:
    write(rng, folder / "photos")
    words = ["predict", checkpoints.classifier(), "photos/cat", "--device=cpu"]
    if rng.random() < 0.5:
        words.append("--save=out")
    if rng.random() < 0.2:
        words.append("--strict")
    return Case(words)


SURFACES = {"image": data, "predict": predict}
