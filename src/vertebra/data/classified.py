"""One class per picture: picture folders, CSV lists and IDX files."""

from __future__ import annotations

import csv
import gzip
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vertebra import pictures
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.errors import VertebraError, nearest
from vertebra.structures import Target


def read_folder(path: Path) -> Catalogue:
    """A folder per class, or such folders in `train/`, `val/` and `test/`."""
    folders = {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    found = {split: folders[w] for split, words in SPLITS.items() for w in words if w in folders}
    notes: list[str] = []
    if "train" not in found and "val" not in found:
        found = {"train": path}
    elif ignored := sorted(set(folders.values()) - set(found.values())):
        notes.append(f"passed over beside the splits: {', '.join(p.name for p in ignored)}")
    names = {
        split: [p for p in sorted(top.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        for split, top in found.items()
    }
    first = names.get("train") or next(iter(names.values()))
    classes = tuple(p.name for p in first)
    if not classes:
        loose = len(pictures.find(next(iter(found.values()))))
        raise VertebraError(
            f"{next(iter(found.values()))} has no class folders"
            + (f" but {loose} loose pictures" if loose else "")
            + "; put the pictures of each class into a folder named after it."
        )
    splits: dict[str, list[Sample]] = {}
    for split, folders_of_split in names.items():
        splits[split] = []
        for folder in folders_of_split:
            if folder.name not in classes:
                raise VertebraError(
                    f"{folder} is a class that the train split does not have.{nearest(folder.name, classes)}"
                )
            files = pictures.find(folder)
            if not files:
                raise VertebraError(
                    f"class folder {folder} holds no pictures ({', '.join(pictures.SUFFIXES)}): "
                    "add some, or remove the folder."
                )
            splits[split] += [_sample(file, classes.index(folder.name)) for file in files]
    return Catalogue(str(path), "folder", classes, splits, notes)


def read_csv(path: Path) -> Catalogue:
    """A list with the columns `path`, `label` and maybe `split`; paths are relative to the file."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        try:
            columns = [c.strip().lower() for c in rows.fieldnames or []]
            if "path" not in columns or "label" not in columns:
                raise VertebraError(
                    f"{path}, line 1: a picture list has the columns path, label and maybe split; "
                    f"this one has {', '.join(columns) or 'none'}."
                )
            rows.fieldnames = columns
            entries = [(rows.line_num, row) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise VertebraError(f"{path}, line {rows.line_num + 1}: cannot be read as CSV ({error}).") from error
    words = {word: split for split, known in SPLITS.items() for word in known}
    for line, row in entries:
        if not row["path"] or not row["label"]:
            raise VertebraError(f"{path}, line {line}: path or label is empty.")
        if not (path.parent / row["path"]).is_file():
            raise VertebraError(f"{path}, line {line}: {path.parent / row['path']} is not there.")
        if (row.get("split") or "train").strip().lower() not in words:
            raise VertebraError(f"{path}, line {line}: split is {row['split']!r}, not one of {', '.join(words)}.")
    if not entries:
        raise VertebraError(f"{path} lists no pictures.")
    classes = tuple(sorted({row["label"] for _, row in entries}))
    index = {name: i for i, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = {}
    for _, row in entries:
        split = words[(row.get("split") or "train").strip().lower()]
        splits.setdefault(split, []).append(_sample(path.parent / row["path"], index[row["label"]]))
    return Catalogue(str(path), "csv", classes, splits)


def read_idx(path: Path) -> Catalogue:
    """MNIST's four files, compressed or not."""
    splits: dict[str, list[Sample]] = {}
    for split, stem in {"train": "train", "val": "t10k"}.items():
        images = _idx(path, f"{stem}-images-idx3-ubyte", 3)
        labels = _idx(path, f"{stem}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise VertebraError(f"{path}: {stem} has {len(images)} pictures but {len(labels)} labels.")
        splits[split] = [
            _sample(torch.from_numpy(image[None]), int(label)) for image, label in zip(images, labels, strict=True)
        ]
    count = 1 + max((sample.label for samples in splits.values() for sample in samples), default=-1)
    if not count:
        raise VertebraError(f"{path}: its IDX files hold no pictures.")
    classes = tuple(str(i) for i in range(count))
    if (names := path / "classes.json").is_file():
        try:
            listed = json.loads(names.read_text())
            listed = listed.get("classes", listed) if isinstance(listed, dict) else listed
            if isinstance(listed, dict):  # of numbers to names
                listed = [listed[str(i)] for i in range(len(listed))]
            classes = tuple(map(str, listed))
        except KeyError as error:
            raise VertebraError(f"{names} has no name for class {error}; its keys must be 0, 1, 2, ...") from error
        except (ValueError, TypeError) as error:
            raise VertebraError(f"{names} is not a JSON list of class names ({error}).") from error
        if len(classes) < count:
            raise VertebraError(f"{names} names {len(classes)} classes, but the labels go up to {count - 1}.")
    return Catalogue(str(path), "idx", classes, splits)


def _idx(folder: Path, stem: str, dimensions: int) -> np.ndarray:
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


def _sample(picture: Path | Tensor, label: int) -> Sample:
    path = str(picture) if isinstance(picture, Path) else ""
    return Sample(picture, Target(label=torch.tensor(label), path=path))
