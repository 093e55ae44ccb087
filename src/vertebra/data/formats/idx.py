"""IDX files of images with one class each, MNIST's four, compressed or not."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError
from vertebra.structures import Target

PRIORITY = 20
FIELDS = frozenset({"label"})
STEMS = {"train": "train", "val": "t10k"}
"""Beginning of the names of each split's files."""


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
    return Catalogue(str(path), "idx", _class_names(path / "classes.json", count), splits)


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(i) for i in range(count))
    try:
        names = json.loads(path.read_text())
        names = names.get("classes", names) if isinstance(names, dict) else names
        if isinstance(names, dict):  # of numbers to names
            names = [names[str(i)] for i in range(len(names))]
        classes = tuple(map(str, names))
    except KeyError as error:
        raise VertebraError(f"{path} has no name for class {error}; its keys must be 0, 1, 2, ...") from error
    except (ValueError, TypeError) as error:
        raise VertebraError(f"{path} is not a JSON list of class names ({error}).") from error
    if len(classes) < count:
        raise VertebraError(f"{path} names {len(classes)} classes, but the labels go up to {count - 1}.")
    return classes


def _array(folder: Path, stem: str, dimensions: int) -> np.ndarray:
    """One file of the IDX format: magic number, sizes as big-endian int32, then bytes."""
    path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)
    if path is None:
        raise VertebraError(f"{folder} has no {stem} or {stem}.gz beside its other IDX files.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = struct.unpack(f">{dimensions}i", content[4 : 4 + 4 * dimensions])
        if content[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError("its magic number is wrong")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes).copy()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise VertebraError(f"{path} is not a whole IDX file of bytes ({error}).") from error
