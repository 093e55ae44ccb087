"""Images from wherever they are to tensors: bounded, upright, eight bits, and no surprises."""

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
"""File name endings that are taken for images, in lower case."""
MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded, as Pillow does: a few kilobytes can unpack to gigabytes."""


class UnreadableImage(VertebraError):
    """A file that cannot be read as an image; the text begins with its path."""


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
        source: a path; a PIL image; an array [H, W] or [H, W, C]; or a tensor [C, H, W]. Arrays and tensors
            hold uint8, uint16, or floats in 0..1.
        channels: 1 for grey, 3 for RGB; another number only for arrays and tensors that have as many.

    Returns:
        [channels, H, W] uint8, turned upright by its EXIF tag. 16-bit values keep their upper eight bits,
        transparency is dropped.

    Raises:
        UnreadableImage: if the file is not there, cannot be decoded, has no pixels, or has more than MAX_PIXELS.
        VertebraError: if `source` is of no kind named above.
    """
    if isinstance(source, str | Path):
        with open_image(Path(source)) as image:
            return _from_pil(image, channels)
    if isinstance(source, Image.Image):
        return _from_pil(source, channels)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise VertebraError(f"an image array is [H, W] or [H, W, C]; this one is {list(source.shape)}.")
        planes = source[None] if source.ndim == 2 else np.moveaxis(source, -1, 0)
        source = torch.from_numpy(np.ascontiguousarray(planes))
    if isinstance(source, Tensor):
        return _from_tensor(source, channels)
    raise VertebraError(f"an image is a path, PIL image, array or tensor, not {type(source).__name__}.")


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image file opened by Pillow, not yet decoded; an error in the block is raised as UnreadableImage."""
    if not path.is_file():
        raise UnreadableImage(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise UnreadableImage(f"{path}: the file is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused later
            with Image.open(path) as image:
                yield image
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{path}: more than {MAX_PIXELS:,} pixels, the most that is decoded.") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"{path}: not an image in any known format, whatever its name.") from None
    except VertebraError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error) as error:
        raise UnreadableImage(f"{path}: cannot be decoded ({error}).") from error


def image_size(path: Path) -> tuple[int, int]:
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


def prepare(image: Tensor, preprocess: Preprocess) -> Tensor:
    """A network's input from an image: [C, H, W] uint8, or floats in 0..1 -> [C, h, w] float32, normalised.

    h and w are those of `frame_of`: the padding is left to `pad_batch`.
    """
    return normalise(resize_image(image, preprocess), preprocess)


def frame_of(image: tuple[int, int], preprocess: Preprocess) -> Frame:
    """How an image of (height, width) `image` will lie in the input.

    With `shortest` and `fit`, the sides are rounded as `rounding` says, and are one pixel at least.
    """
    if preprocess.resize not in ("shortest", "fit"):
        return Frame(image, preprocess.size)
    height, width = image
    if preprocess.resize == "fit":
        scale = min(preprocess.size[0] / height, preprocess.size[1] / width)
    else:
        scale = min(preprocess.size[0] / min(image), preprocess.size[1] / max(image))
    more = 0.5 if preprocess.rounding == "nearest" else 1e-4
    return Frame(image, (max(1, int(height * scale + more)), max(1, int(width * scale + more))))


def resize_image(image: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] -> the same kind [C, h, w]: scaled as `frame_of` says, its centre cropped, or squashed."""
    interpolation, antialias = F.InterpolationMode(preprocess.interpolation), preprocess.antialias
    if preprocess.resize != "crop":
        scaled = list(frame_of((image.shape[-2], image.shape[-1]), preprocess).resized)
        return F.resize(image, scaled, interpolation, antialias=antialias)
    size = list(preprocess.size)
    height, width = image.shape[-2:]
    scale = max(round(size[0] / preprocess.crop) / height, round(size[1] / preprocess.crop) / width)
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    if scaled[0] * scaled[1] > MAX_PIXELS:  # a strip, which would grow to gigabytes: here the crop comes first
        kept = [min(height, math.ceil(size[0] / scale)), min(width, math.ceil(size[1] / scale))]
        return F.resize(F.center_crop(image, kept), size, interpolation, antialias=antialias)
    return F.center_crop(F.resize(image, scaled, interpolation, antialias=antialias), size)


def normalise(image: Tensor, preprocess: Preprocess) -> Tensor:
    """[C, H, W] uint8 -> float32 with the preprocessing's mean taken off and divided by its deviation."""
    return F.normalize(F.to_dtype(image, torch.float32, scale=True), list(preprocess.mean), list(preprocess.std))


def pad_batch(images: Sequence[Tensor], preprocess: Preprocess) -> Tensor:
    """Prepared images [C, h, w] as one batch [B, C, H, W], padded with zeros at the bottom and the right.

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


def prepare_all(images: Iterable[Any], preprocess: Preprocess) -> tuple[Tensor, list[Frame]]:
    """Reads and prepares each image: -> [B, C, H, W] float32, and how each lies in it."""
    tensors = [read_image(image, preprocess.channels) for image in images]
    frames = [frame_of((image.shape[1], image.shape[2]), preprocess) for image in tensors]
    return pad_batch([prepare(image, preprocess) for image in tensors], preprocess), frames


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels, the most decoded.")
    if channels not in (1, 3):
        raise VertebraError(f"an image file gives 1 or 3 channels, not {channels}; pass arrays or tensors instead.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
        wide = np.asarray(image).astype(np.int64)
        if wide.max(initial=0) > 65535 or wide.min(initial=0) < 0:
            raise UnreadableImage("holds values beyond 16 bits; convert it to 8 or 16 bits per channel.")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImage("holds floating-point values; convert it to 8 or 16 bits per channel.")
    array = np.array(image.convert("RGB" if channels == 3 else "L"))  # a copy, so that torch may write to it
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1)).contiguous()


def _from_tensor(image: Tensor, channels: int) -> Tensor:
    if image.ndim != 3 or image.numel() == 0:
        raise VertebraError(f"an image tensor is [C, H, W] with pixels in it; this one is {list(image.shape)}.")
    if len(image) in (3, 4) and channels == 1:
        return F.rgb_to_grayscale(_from_tensor(image, 3))
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
    return F.to_dtype(image, torch.uint8, scale=True)
