"""Folders of images, one for each class."""

from __future__ import annotations

from pathlib import Path

import torch

from vertebra.data.annotations import holds_images, split_folders, subfolders
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, nearest
from vertebra.images import SUFFIXES, find_images
from vertebra.structures import Target

PRIORITY = 100
FIELDS = frozenset({"label"})
TITLE = "a folder per class"


def recognise(path: Path) -> bool:
    """Whether it is a folder, which no other format recognised before."""
    return path.is_dir()


def read(path: Path, options: ReadOptions) -> Catalogue:
    """A folder per class, or such folders in `train/`, `val/` and `test/`.

    Raises:
        VertebraError: if there are no class folders, one of them is empty, or the train split lacks one.
    """
    tops = split_folders(path, lambda _: True)
    notes: list[str] = []
    folders = subfolders(path)
    others = sorted(set(folders) - set(tops.values()))
    # Classes may be called train or test.
    classes_beside = any(map(holds_images, others)) and (
        not tops.keys() & {"train", "val"} or not any(map(subfolders, tops.values()))
    )
    if not tops or classes_beside:
        tops, others = {"train": path}, []
    if others:
        notes.append(f"ignored beside the splits: {', '.join(folder.name for folder in others)}")
    class_folders = {split: subfolders(tops[split]) for split in SPLITS if split in tops}
    first = class_folders.get("train") or next(iter(class_folders.values()))
    classes = tuple(folder.name for folder in first)
    labels = {name: torch.tensor(i) for i, name in enumerate(classes)}
    if not classes:
        top = next(iter(tops.values()))
        loose = len(find_images(top))
        raise VertebraError(
            f"{top} has no class folders"
            + (f" but {loose} loose images" if loose else "")
            + "; put the images of each class into a folder named after it."
        )
    splits: dict[str, list[Sample]] = {}
    for split, folders in class_folders.items():
        splits[split] = []
        for folder in folders:
            if folder.name not in labels:
                raise VertebraError(
                    f"{folder} is a class that the train split does not have.{nearest(folder.name, classes)}"
                )
            files = find_images(folder)
            if not files:
                raise VertebraError(
                    f"class folder {folder} holds no images ({', '.join(SUFFIXES)}): add some, or remove the folder."
                )
            splits[split] += [Sample(file, Target(label=labels[folder.name], path=str(file))) for file in files]
    return Catalogue(str(path), "folder", classes, splits, notes)
