"""Images from wherever they are to tensors: bounded, upright, eight bits, and no surprises."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from vertebra.errors import VertebraError, first_line
from vertebra.ops.crops import crop_matrix, surroundings, warp
from vertebra.structures import Frame, Preprocess, Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""File name endings that are taken for images, in lower case."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Pillow's formats that files are opened as, by their content. It has others that run programs, such as Ghostscript."""
MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded, as Pillow does: a few kilobytes can unpack to gigabytes."""
MAX_SIDE = 100_000
"""Pixels; images with a longer side are refused before they are decoded: each row takes memory, however short it is."""
MAX_RATIO = 1032
"""Of unpacked to packed bytes in deflate, the compression of PNG and gzip."""
ADAM7 = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0), (1, 2, 0, 1))
"""The seven images in an interlaced PNG: steps across and down, and the first pixel."""
MAX_STORED = 1 << 30
"""Bytes of an encoded image inside of a larger file."""
TILE_TAGS = (322, 323)
"""Of a TIFF: width and length of its tiles."""
MAX_TILE = 4096
"""Pixels that the side of a tile may have where the image is smaller: tiles are unpacked whole."""
SCAN = b"\xff\xda"
MAX_SCANS = 100
"""Of a progressive JPEG; usual ones have ten."""
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(TypeError, ArithmeticError, LookupError, AttributeError),
)
"""What Pillow raises for damaged files; the second row for tags of another type than theirs."""
STRIP = 1 << 20
"""Pixels that are converted at a time, so that a large image is not copied as a whole."""


class UnreadableImage(VertebraError):
    """A file that cannot be read as an image; the text begins with its path."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image that is not a file of its own."""

    name: str

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Its bytes, as a file of its own would have them.

        Raises:
            UnreadableImage: if they cannot be read.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ImageBytes(StoredImage):
    """An encoded image in memory."""

    content: bytes

    def read(self) -> bytes:
        if not self.content:
            raise UnreadableImage(f"{self}: the file is empty (0 bytes).")
        return self.content


@dataclass(frozen=True, slots=True)
class PackedImage(StoredImage):
    """An encoded image inside of a larger file; `name` is what it is called there."""

    file: Path

    def __str__(self) -> str:
        return f"{self.file}/{self.name}"


@dataclass(frozen=True, slots=True)
class ImageSlice(PackedImage):
    """An encoded image of `size` bytes from byte `offset` of a larger file on."""

    offset: int
    size: int

    def read(self) -> bytes:
        if not 0 < self.size <= MAX_STORED:
            raise UnreadableImage(f"{self}: it has {self.size:,} bytes; 1 to {MAX_STORED:,} are read.")
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise UnreadableImage(f"{self}: cannot be read ({error.strerror}).") from error
        if len(content) < self.size:
            raise UnreadableImage(f"{self}: cut off: the file ends {self.size - len(content):,} bytes before it does.")
        return content


def find_images(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Every file below `folder` that ends like an image, sorted; hidden files and folders are passed over."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not p.is_dir()
    )


def read_image(source: Any, channels: int = 3) -> Tensor:
    """One image as a tensor.

    Args:
        source: a path; a StoredImage; a PIL image; an array [H, W] or [H, W, C]; or a tensor [C, H, W]. Arrays and
            tensors hold uint8, uint16, or floats in 0..1.
        channels: 1 for grey, 3 for RGB; another number only for arrays and tensors that have as many.

    Returns:
        [channels, H, W] uint8, turned upright by its EXIF tag. 16-bit values keep their upper eight bits,
        transparency is dropped.

    Raises:
        UnreadableImage: if the file is not there, cannot be decoded, is cut off, has no pixels, or is larger than
            MAX_PIXELS and MAX_SIDE allow.
        VertebraError: if `source` is of no kind named above.
    """
    if isinstance(source, str | Path | StoredImage):
        with open_image(source) as image:
            decode(image)
            return _from_pil(image, channels)
    if isinstance(source, Image.Image):
        _check_size(source)
        _check_scans(source)
        return _from_pil(ImageOps.exif_transpose(source), channels)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise VertebraError(f"an image array is [H, W] or [H, W, C]; this one is {list(source.shape)}.")
        planes = source[None] if source.ndim == 2 else np.moveaxis(source, -1, 0)
        source = torch.from_numpy(np.ascontiguousarray(planes))
    if isinstance(source, Tensor):
        return _from_tensor(source, channels)
    raise VertebraError(f"an image is a path, PIL image, array or tensor, not {type(source).__name__}.")


@contextlib.contextmanager
def open_image(path: str | Path | StoredImage) -> Iterator[Image.Image]:
    """An image file opened by Pillow, not yet decoded; an error in the block is raised as UnreadableImage."""
    source: Any = path
    if isinstance(path, StoredImage):
        source = io.BytesIO(path.read())
    elif not os.path.isfile(path):
        raise UnreadableImage(f"{path}: there is no such file.")
    elif not os.path.getsize(path):
        raise UnreadableImage(f"{path}: the file is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused later
            with Image.open(source, formats=FORMATS) as image:
                _check_size(image)
                yield image
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{path}: more than {MAX_PIXELS:,} pixels, the most that is decoded.") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"{path}: not an image in any known format, whatever its name.") from None
    except VertebraError:
        raise
    except MemoryError:
        raise UnreadableImage(f"{path}: cannot be decoded (there is not enough memory).") from None
    except DAMAGED as error:
        raise UnreadableImage(f"{path}: cannot be decoded ({first_line(error)}).") from error


def decode(image: Image.Image) -> None:
    """Decodes an image that `open_image` opened, and turns it upright, in place.

    Raises:
        UnreadableImage: if it is a PNG whose data end before its last row, which Pillow would leave black, or a JPEG
            with very many scans.
    """
    _check_scans(image)
    if image.format == "PNG":
        path, stream = image.filename, image.fp  # type: ignore[attr-defined]
        width, height = image.size
        size = os.path.getsize(path) if path else stream.getbuffer().nbytes
        doubtful = width * height > 8 * MAX_RATIO * size  # impossible even with one bit per pixel
        if not doubtful:
            image.load()
            last = image.crop((0, height - 1, width, height))
            doubtful = "interlace" in image.info or not np.asarray(last).any()
        if doubtful:  # Pillow closes the file of a path when it is read
            with open(path, "rb") if path else contextlib.nullcontext(stream) as file:
                if not _is_whole_png(file, size):
                    raise UnreadableImage(f"cut off: its data end before the last of its {width} x {height} pixels.")
    ImageOps.exif_transpose(image, in_place=True)


def _is_whole_png(file: BinaryIO, size: int) -> bool:
    """Whether the compressed data of a PNG of `size` bytes reach its last row, without keeping what they unpack to."""
    expected, unpacked, inflate = 1, 0, zlib.decompressobj()
    file.seek(8)
    while unpacked < expected and len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        content = file.read(min(length, size))
        file.seek(4, os.SEEK_CUR)
        if kind == b"IHDR":
            width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", content[:13])
            bits *= {2: 3, 4: 2, 6: 4}.get(colour, 1)
            parts = ADAM7 if interlaced else ((1, 1, 0, 0),)
            sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for across, down, x, y in parts]
            expected = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0)
        while kind == b"IDAT" and content:
            unpacked += len(inflate.decompress(content, STRIP))
            content = inflate.unconsumed_tail
    return unpacked + len(inflate.flush()) >= expected


def image_size(path: Path | StoredImage) -> tuple[int, int]:
    """(height, width) in pixels that `read_image` will give a file, from its header alone.

    Raises:
        UnreadableImage: if the file is not there or no image.
    """
    with open_image(path) as image:
        # Of a PNG without an EXIF block in its header, Pillow would decode all pixels to look for one behind them.
        plain = image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys()
        turned = not plain and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        width, height = image.size
        if image.format == "TIFF":  # of which Pillow gives the upright size itself
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))  # type: ignore[attr-defined]
        return (width, height) if turned else (height, width)


def as_list(images: Any) -> list[Any]:
    """One image, a sequence of images or a batch [B, C, H, W] as a list of images."""
    if getattr(images, "ndim", 0) == 4 or isinstance(images, list | tuple):
        return list(images)
    return [images]


def prepare(image: Tensor, preprocess: Preprocess, region: Region | None = None) -> Tensor:
    """A network's input from an image: [C, H, W] uint8, or floats in 0..1 -> [C, h, w] float32, normalised.

    h and w are those of `frame_of`: the padding is left to `pad_batch`. With `box`, the input shows `region`, or the
    whole image if None.
    """
    if preprocess.resize == "box":
        frame = frame_of((image.shape[-2], image.shape[-1]), preprocess, region)
        return normalise(warp(image, input_matrix(frame, preprocess), preprocess.size), preprocess)
    return normalise(resize_image(image, preprocess), preprocess)


def input_matrix(frame: Frame, preprocess: Preprocess) -> Tensor:
    """With `box`: the affine map [2, 3] from pixels of the image to those of the input."""
    part = surroundings(shown_box(frame), preprocess.size, preprocess.margin)
    return crop_matrix(part, preprocess.size, udp=preprocess.udp)


def shown_box(frame: Frame) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 of the frame's region; that of the image if there is none."""
    height, width = frame.original
    return (0.0, 0.0, float(width), float(height)) if frame.region is None else frame.region.box


def frame_of(image: tuple[int, int], preprocess: Preprocess, region: Region | None = None) -> Frame:
    """How an image of (height, width) `image` will lie in the input, or its `region`.

    With `shortest` and `fit`, the sides are rounded as `rounding` says, and are one pixel at least.
    """
    if preprocess.resize not in ("shortest", "fit"):
        return Frame(image, preprocess.size, region)
    height, width = image
    if preprocess.resize == "fit":
        scale = min(preprocess.size[0] / height, preprocess.size[1] / width)
    else:
        scale = min(preprocess.size[0] / min(image), preprocess.size[1] / max(image))
    more = 0.5 if preprocess.rounding == "nearest" else 1e-4
    return Frame(image, (max(1, int(height * scale + more)), max(1, int(width * scale + more))))


def resize_image(image: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] -> the same kind [C, h, w]: scaled as `frame_of` says, its centre cropped, or squashed."""
    if preprocess.resize != "crop":
        return resample(image, frame_of((image.shape[-2], image.shape[-1]), preprocess).resized, preprocess)
    kept, scaled = _crop_sizes((image.shape[-2], image.shape[-1]), preprocess)
    return _centre(resample(_centre(image, kept), scaled, preprocess), preprocess.size)


def _crop_sizes(image: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], tuple[int, int]]:
    """With `crop`: (height, width) of the centre of an image of (height, width) `image` that is resized, and of the
    result, whose centre is the input."""
    size = preprocess.size
    height, width = image
    scale = max(round(size[0] / preprocess.crop) / height, round(size[1] / preprocess.crop) / width)
    scaled = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    if scaled[0] * scaled[1] > MAX_PIXELS:  # a strip, which would grow to gigabytes: here the crop comes first
        return (min(height, math.ceil(size[0] / scale)), min(width, math.ceil(size[1] / scale))), size
    return image, scaled


def placement(frame: Frame, preprocess: Preprocess) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an image lies in the input: the factors on its x and y, and what is then added to them, in input pixels."""
    if preprocess.resize == "box":
        (across, _, right), (_, down, below) = input_matrix(frame, preprocess).tolist()
        return (across, down), (right, below)
    height, width = frame.original
    if preprocess.resize != "crop":
        return (frame.resized[1] / width, frame.resized[0] / height), (0.0, 0.0)
    kept, scaled = _crop_sizes(frame.original, preprocess)
    down, across = (new / old for new, old in zip(scaled, kept, strict=True))
    below, right = (
        -round((old - part) / 2) * factor - round((new - side) / 2)
        for old, part, factor, new, side in zip(
            frame.original, kept, (down, across), scaled, preprocess.size, strict=True
        )
    )
    return (across, down), (right, below)


def resample(image: Tensor, size: tuple[int, int], preprocess: Preprocess) -> Tensor:
    """[C, H, W] uint8 or floats -> the same type [C, h, w] of (h, w) `size`, with the preprocessing's interpolation.

    The numbers are those of torchvision's `v2.functional.resize`, which takes more than a second to import.
    """
    if image.shape[-2:] == size:
        return image
    if size == (1, 1):  # torch's antialiasing of uint8 fails on a single pixel
        return image.float().mean((-2, -1), keepdim=True).to(image.dtype)
    smooth = preprocess.interpolation in ("bilinear", "bicubic")
    whole = image.dtype == torch.uint8
    computed = image.float() if whole and smooth and image.device.type != "cpu" else image
    new = interpolate(
        computed[None],
        size,
        mode=preprocess.interpolation,
        align_corners=False if smooth else None,
        antialias=preprocess.antialias and smooth,
    )[0]
    return new.clamp_(0, 255).round_().to(torch.uint8) if computed.dtype != image.dtype else new


def _centre(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of (height, width) `size` of an image that is no smaller."""
    top, left = (round((old - new) / 2) for old, new in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]


def normalise(image: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] uint8 -> float32 with the preprocessing's mean taken off and divided by its deviation."""
    mean, std = (torch.tensor(v, device=image.device)[:, None, None] for v in (preprocess.mean, preprocess.std))
    values = image.float() if image.is_floating_point() else image.float().mul_(1 / 255)
    return values.sub(mean).div_(std)


def padded_size(sizes: Sequence[tuple[int, int]], preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) of a batch from those of its prepared images: the largest, or with `fit` the preprocessing's
    size, with `shortest` rounded up to its divisor."""
    sizes = [*sizes, preprocess.size] if preprocess.resize == "fit" else sizes
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    unit = preprocess.divisor if preprocess.resize == "shortest" else 1
    return -(-height // unit) * unit, -(-width // unit) * unit


def pad_batch(images: Sequence[Tensor], preprocess: Preprocess) -> Tensor:
    """Prepared images [C, h, w] as one batch [B, C, H, W], padded with zeros at the bottom and the right."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = padded_size(sizes, preprocess)
    if all(size == (height, width) for size in sizes):
        return torch.stack(list(images))
    batch = images[0].new_zeros(len(images), len(images[0]), height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def prepare_all(images: Iterable[Any], preprocess: Preprocess) -> tuple[Tensor, list[Frame]]:
    """Reads and prepares each image: -> [B, C, H, W] float32, and how each lies in it."""
    tensors = [read_image(image, preprocess.channels) for image in images]
    frames = [frame_of((image.shape[1], image.shape[2]), preprocess) for image in tensors]
    return pad_batch([prepare(image, preprocess) for image in tensors], preprocess), frames


def _check_scans(image: Image.Image) -> None:
    """Of a progressive JPEG that is not decoded yet; it reads the whole file."""
    stream = getattr(image, "fp", None)
    if stream is None or image.format not in ("JPEG", "MPO") or not image.info.get("progressive"):
        return
    place = stream.tell()
    stream.seek(0)
    scans = stream.read().count(SCAN)  # which no coded data holds
    stream.seek(place)
    if scans > MAX_SCANS:
        raise UnreadableImage(f"has {scans:,} scans, more than {MAX_SCANS}, and each takes as long as an image.")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} is more than {MAX_PIXELS:,} pixels, the most that is decoded.")
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"{width} x {height} pixels: sides of more than {MAX_SIDE:,} pixels are not decoded.")
    if image.format == "TIFF":
        tile = [image.tag_v2.get(tag, 0) for tag in TILE_TAGS]  # type: ignore[attr-defined]
        if any(side > max(whole, MAX_TILE) for side, whole in zip(tile, image.size, strict=True)):
            raise UnreadableImage(f"has tiles of {tile[0]} x {tile[1]} pixels, more than its {width} x {height}.")


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    """[channels, H, W] uint8 of an image that is upright."""
    if channels not in (1, 3):
        raise VertebraError(f"an image file gives 1 or 3 channels, not {channels}; pass arrays or tensors instead.")
    image.load()
    if image.mode == "F":
        raise UnreadableImage("holds floating-point values; convert it to 8 or 16 bits per channel.")
    pixels = np.empty((channels, image.height, image.width), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
            wide = np.asarray(strip).astype(np.int64)
            if wide.max(initial=0) > 65535 or wide.min(initial=0) < 0:
                raise UnreadableImage("holds values beyond 16 bits; convert it to 8 or 16 bits per channel.")
            strip = Image.fromarray((wide >> 8).astype(np.uint8))
        array = np.asarray(strip.convert("RGB" if channels == 3 else "L"))
        pixels[:, top : top + rows] = array[None] if channels == 1 else array.transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def _from_tensor(image: Tensor, channels: int) -> Tensor:
    if image.ndim != 3 or image.numel() == 0:
        raise VertebraError(f"an image tensor is [C, H, W] with pixels in it; this one is {list(image.shape)}.")
    if len(image) in (3, 4) and channels == 1:
        return _functional().rgb_to_grayscale(_from_tensor(image, 3))
    if len(image) == 1 and channels == 3:
        image = image.expand(3, -1, -1)
    elif len(image) == 4 and channels == 3:
        image = image[:3]  # transparency
    if len(image) != channels:
        raise VertebraError(f"this model takes {channels} channels, the image has {len(image)}.")
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.uint16:
        return (image.to(torch.int32) >> 8).to(torch.uint8)
    if not image.is_floating_point():
        raise VertebraError(f"an image holds uint8, uint16 or floats in 0..1, not {image.dtype}.")
    low, high = (float(v) for v in image.aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise VertebraError(f"a floating-point image holds values in 0..1; this one's go from {low:g} to {high:g}.")
    return _functional().to_dtype(image, torch.uint8, scale=True)


def _functional() -> Any:
    """torchvision's functions, which take more than a second to import; files do not need them."""
    from torchvision.transforms.v2 import functional

    return functional
