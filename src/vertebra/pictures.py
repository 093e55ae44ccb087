"""Pictures from wherever they are to tensors: bounded, upright, eight bits, and no surprises."""

from __future__ import annotations

import contextlib
import math
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""File name endings that are taken for pictures, in lower case."""
MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded, as Pillow does: a few kilobytes can unpack to gigabytes."""


class BrokenPicture(VertebraError):
    """A file that cannot be read as a picture; the text begins with its path."""


def find(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Every file below `folder` that ends like a picture, sorted; hidden files and folders are passed over."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not p.is_dir()
    )


def read(source: Any, channels: int = 3) -> Tensor:
    """One picture as a tensor.

    Args:
        source: a path; a PIL image; an array [H, W] or [H, W, C]; or a tensor [C, H, W]. Arrays and tensors
            hold uint8, uint16, or floats in 0..1.
        channels: 1 for grey, 3 for RGB; another number only for arrays and tensors that have as many.

    Returns:
        [channels, H, W] uint8, turned upright by its EXIF tag. 16-bit values keep their upper eight bits,
        transparency is dropped.

    Raises:
        BrokenPicture: if the file is not there, cannot be decoded, has no pixels, or has more than MAX_PIXELS.
        VertebraError: if `source` is of no kind named above.
    """
    if isinstance(source, str | Path):
        with opened(Path(source)) as image:
            return _from_pil(image, channels)
    if isinstance(source, Image.Image):
        return _from_pil(source, channels)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise VertebraError(f"a picture array is [H, W] or [H, W, C]; this one is {list(source.shape)}.")
        planes = source[None] if source.ndim == 2 else np.moveaxis(source, -1, 0)
        source = torch.from_numpy(np.ascontiguousarray(planes))
    if isinstance(source, Tensor):
        return _from_tensor(source, channels)
    raise VertebraError(f"a picture is a path, PIL image, array or tensor, not {type(source).__name__}.")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file opened by Pillow, not yet decoded; what goes wrong with it in the block is a BrokenPicture."""
    if not path.is_file():
        raise BrokenPicture(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise BrokenPicture(f"{path}: the file is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused later
            with Image.open(path) as image:
                yield image
    except BrokenPicture as error:
        raise BrokenPicture(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise BrokenPicture(f"{path}: more than {MAX_PIXELS:,} pixels, the most that is decoded.") from None
    except UnidentifiedImageError:
        raise BrokenPicture(f"{path}: not a picture in any known format, whatever its name.") from None
    except VertebraError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error) as error:
        raise BrokenPicture(f"{path}: cannot be decoded ({error}).") from error


def measure(path: Path) -> tuple[int, int]:
    """(height, width) in pixels that `read` will give a file, from its header alone.

    Raises:
        BrokenPicture: if the file is not there or no picture.
    """
    with opened(path) as image:
        # Of a PNG without an EXIF block in its header, Pillow would decode all pixels to look for one behind them.
        plain = image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys()
        turned = not plain and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        width, height = image.size
        if image.format == "TIFF":  # of which Pillow gives the upright size itself
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))  # type: ignore[attr-defined]
        return (width, height) if turned else (height, width)


def listed(images: Any) -> list[Any]:
    """One picture, a sequence of pictures or a batch [B, C, H, W] as a list of pictures."""
    if getattr(images, "ndim", 0) == 4 or isinstance(images, list | tuple):
        return list(images)
    return [images]


def prepare(picture: Tensor, preprocess: Preprocess) -> Tensor:
    """A network's input from a picture: [C, H, W] uint8, or floats in 0..1 -> [C, h, w] float32, normalised.

    h and w are those of `frame`: the padding is left to `batched`.
    """
    return normalise(resize(picture, preprocess), preprocess)


def frame(picture: tuple[int, int], preprocess: Preprocess) -> Frame:
    """How a picture of (height, width) `picture` will lie in the input.

    With `shortest` and `fit`, the sides are rounded as `rounding` says, and are one pixel at least.
    """
    if preprocess.resize not in ("shortest", "fit"):
        return Frame(picture, preprocess.size)
    height, width = picture
    if preprocess.resize == "fit":
        scale = min(preprocess.size[0] / height, preprocess.size[1] / width)
    else:
        scale = min(preprocess.size[0] / min(picture), preprocess.size[1] / max(picture))
    more = 0.5 if preprocess.rounding == "nearest" else 1e-4
    return Frame(picture, (max(1, int(height * scale + more)), max(1, int(width * scale + more))))


def resize(picture: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] -> the same kind [C, h, w]: scaled as `frame` says, its centre cropped, or squashed."""
    interpolation, antialias = F.InterpolationMode(preprocess.interpolation), preprocess.antialias
    if preprocess.resize != "crop":
        scaled = list(frame((picture.shape[-2], picture.shape[-1]), preprocess).scaled)
        return F.resize(picture, scaled, interpolation, antialias=antialias)
    size = list(preprocess.size)
    height, width = picture.shape[-2:]
    scale = max(round(size[0] / preprocess.crop) / height, round(size[1] / preprocess.crop) / width)
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    if scaled[0] * scaled[1] > MAX_PIXELS:  # a strip, which would grow to gigabytes: here the crop comes first
        kept = [min(height, math.ceil(size[0] / scale)), min(width, math.ceil(size[1] / scale))]
        return F.resize(F.center_crop(picture, kept), size, interpolation, antialias=antialias)
    return F.center_crop(F.resize(picture, scaled, interpolation, antialias=antialias), size)


def normalise(picture: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] uint8 -> float32 with the preprocessing's mean taken off and divided by its deviation."""
    return F.normalize(F.to_dtype(picture, torch.float32, scale=True), list(preprocess.mean), list(preprocess.std))


def batched(images: Sequence[Tensor], preprocess: Preprocess) -> Tensor:
    """Prepared pictures [C, h, w] as one batch [B, C, H, W], padded with zeros at the bottom and the right.

    H and W are the largest of the batch, or with `fit` the preprocessing's size, rounded up to its divisor.
    """
    sizes = [image.shape[-2:] for image in images]
    if preprocess.resize == "fit":
        sizes.append(torch.Size(preprocess.size))
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    if preprocess.resize == "shortest":
        height, width = (-(-side // preprocess.divisor) * preprocess.divisor for side in (height, width))
    if all(size == (height, width) for size in sizes):
        return torch.stack(list(images))
    batch = images[0].new_zeros(len(images), len(images[0]), height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def prepare_all(pictures: Iterable[Any], preprocess: Preprocess) -> tuple[Tensor, list[Frame]]:
    """Reads and prepares each picture: -> [B, C, H, W] float32, and how each lies in it."""
    read_in = [read(picture, preprocess.channels) for picture in pictures]
    frames = [frame((picture.shape[1], picture.shape[2]), preprocess) for picture in read_in]
    return batched([prepare(picture, preprocess) for picture in read_in], preprocess), frames


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    if image.width * image.height > MAX_PIXELS:
        raise BrokenPicture(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels, the most decoded.")
    if channels not in (1, 3):
        raise VertebraError(f"a picture file gives 1 or 3 channels, not {channels}; pass arrays or tensors instead.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
        wide = np.asarray(image).astype(np.int64)
        if wide.max(initial=0) > 65535 or wide.min(initial=0) < 0:
            raise BrokenPicture("holds values beyond 16 bits; convert it to 8 or 16 bits per channel.")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise BrokenPicture("holds floating-point values; convert it to 8 or 16 bits per channel.")
    array = np.array(image.convert("RGB" if channels == 3 else "L"))  # a copy, so that torch may write to it
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1)).contiguous()


def _from_tensor(picture: Tensor, channels: int) -> Tensor:
    if picture.ndim != 3 or picture.numel() == 0:
        raise VertebraError(f"a picture tensor is [C, H, W] with pixels in it; this one is {list(picture.shape)}.")
    if len(picture) in (3, 4) and channels == 1:
        return F.rgb_to_grayscale(_from_tensor(picture, 3))
    if len(picture) == 1 and channels == 3:
        picture = picture.expand(3, -1, -1)
    elif len(picture) == 4 and channels == 3:
        picture = picture[:3]  # transparency
    if len(picture) != channels:
        raise VertebraError(f"this model takes {channels} channels, the picture has {len(picture)}.")
    if picture.dtype == torch.uint8:
        return picture
    if picture.dtype == torch.uint16:
        return (picture.to(torch.int32) >> 8).to(torch.uint8)
    if not picture.is_floating_point():
        raise VertebraError(f"a picture holds uint8, uint16 or floats in 0..1, not {picture.dtype}.")
    low, high = (float(v) for v in picture.aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise VertebraError(f"a floating-point picture holds values in 0..1; this one's go from {low:g} to {high:g}.")
    return F.to_dtype(picture, torch.uint8, scale=True)
