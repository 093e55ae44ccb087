"""IDX files of images with one class each, MNIST's four, compressed or not."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from vertebra.data.annotations import CLASSES, class_list
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError
from vertebra.images import MAX_PIXELS, MAX_RATIO, STRIP
from vertebra.structures import Target

PRIORITY = 20
FIELDS = frozenset({"label"})
TITLE = "IDX"
STEMS = {"train": "train", "val": "t10k"}
"""Beginning of the names of each split's files."""
MAX_UNPACKED = 4 << 30
"""Bytes of one file, unpacked."""


def recognise(path: Path) -> bool:
    """Whether a folder holds a file of images."""
    return any(path.glob("*-idx3-ubyte*"))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the four files; the classes are named by `classes.json`, or else by their numbers.

    Raises:
        VertebraError: if one of the files is missing or damaged, or the names do not fit the labels.
    """
    splits: dict[str, list[Sample]] = {}
    for split, stem in STEMS.items():
        images = _array(path, f"{stem}-images-idx3-ubyte", 3)
        labels = _array(path, f"{stem}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise VertebraError(f"{path}: {stem} has {len(images)} images but {len(labels)} labels.")
        splits[split] = [
            Sample(torch.from_numpy(image[None]), Target(label=torch.tensor(int(label))))
            for image, label in zip(images, labels, strict=True)
        ]
    count = 1 + max((sample.label for samples in splits.values() for sample in samples), default=-1)
    if not count:
        raise VertebraError(f"{path}: its IDX files hold no images.")
    return Catalogue(str(path), "idx", _class_names(path, count), splits)


def _class_names(folder: Path, count: int) -> tuple[str, ...]:
    classes = class_list(folder)
    if classes and len(classes) < count:
        raise VertebraError(f"{folder / CLASSES} names {len(classes)} classes, but the labels go up to {count - 1}.")
    return classes or tuple(str(i) for i in range(count))


def _array(folder: Path, stem: str, dimensions: int) -> np.ndarray:
    """One file of the IDX format: magic number, sizes as big-endian int32, then bytes."""
    path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)
    if path is None:
        raise VertebraError(f"{folder} has no {stem} or {stem}.gz beside its other IDX files.")
    head = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(head)
            sizes = struct.unpack(f">{dimensions}i", header[4:])
            if header[:4] != bytes([0, 0, 8, dimensions]):
                raise ValueError("its magic number is wrong")
            count, *sides = sizes
            if count < 0 or min(sides, default=1) < 1 or math.prod(sides) > MAX_PIXELS:
                raise ValueError(f"its header states {' x '.join(map(str, sizes))} bytes")
            # Memory is taken for what the file can hold, not for what it claims to.
            largest = min(MAX_UNPACKED, os.path.getsize(path) * (MAX_RATIO if path.suffix == ".gz" else 1))
            if math.prod(sizes) > largest:
                raise ValueError(f"its header states {math.prod(sizes):,} bytes; it has at most {largest:,}")
            content = np.empty(math.prod(sizes), np.uint8)
            read, view = 0, memoryview(content)  # type: ignore[arg-type]
            while part := file.readinto(view[read : read + STRIP]):
                read += part
            if read < len(content) or file.read(1):
                raise ValueError(f"it has {'more' if read == len(content) else 'fewer'} bytes than its header states")
            return content.reshape(sizes)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise VertebraError(f"{path} is not a whole IDX file of bytes ({error}).") from error
