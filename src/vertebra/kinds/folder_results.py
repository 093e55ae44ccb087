"""Results in a folder of image files with a mask each, whose pixels are 0 and one other value.

A mask is of the image whose name its own begins with, up to an underscore (`NAME.png`, `NAME_2.png`), or else the name
of a folder that it lies in (`NAME/masks/2.png`). Its class is that of the dataset after which a folder is named
(`CLASS/NAME_2.png`), or the dataset's only one. There are no scores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from vertebra.data.catalogue import Catalogue
from vertebra.errors import VertebraError
from vertebra.images import find_images
from vertebra.kinds.results import ImageNames, RefinedImage, check_size, read_mask, save_mask
from vertebra.progress import track
from vertebra.structures import Masks, Prediction

TITLE = "a folder of mask files"
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Endings of files that keep the values of pixels."""


def recognise(path: Path) -> bool:
    """Whether image files lie in a folder, or further down."""
    return path.is_dir() and bool(find_images(path))


def read_masks(path: Path, catalogue: Catalogue, split: str) -> FolderResults:
    """The files of a folder; the masks are read when they are needed.

    Raises:
        VertebraError: if a file is of no image, of another size than its image, or of a format that changes the values
            of pixels.
    """
    return FolderResults(path, catalogue, split)


class FolderResults:
    """Results in a folder of mask files; see `results.MaskResults`."""

    def __init__(self, path: Path, catalogue: Catalogue, split: str) -> None:
        self.path = path = Path(os.path.normpath(path))
        self.samples = catalogue.split(split)
        names = ImageNames(catalogue, split)
        classes = {name: label for label, name in enumerate(catalogue.classes)}
        self.files: dict[int, list[tuple[Path, int | None]]] = {}
        for file in track(find_images(path), "reading results"):
            if file.suffix.lower() not in SUFFIXES:
                raise VertebraError(f"{file}: masks are read from {', '.join(SUFFIXES)}, which keep their values.")
            folders = file.relative_to(path).parts[-2::-1]  # the innermost first
            places = (names.longest(name, file) for name in (file.stem, *folders))
            if (index := next((place for place in places if place is not None), None)) is None:
                raise names.missing(file)
            check_size(file, self.samples[index].size)
            label = 0 if len(classes) == 1 else next((classes[name] for name in folders if name in classes), None)
            self.files.setdefault(index, []).append((file, label))
        labels = [label for files in self.files.values() for _, label in files]
        self.labelled = "masks" in catalogue.has and None not in labels

    def count(self, index: int) -> int:
        return len(self.files.get(index, ()))

    def prediction(self, index: int) -> Prediction:
        files = self.files.get(index, [])
        size = self.samples[index].size
        assert size is not None
        masks = Masks(size)
        for file, _ in files:
            read_mask(file, masks)
        labels = [label or 0 if self.labelled else 0 for _, label in files]
        return Prediction(
            labels=torch.tensor(labels, dtype=torch.int64),
            scores=torch.ones(len(files), dtype=torch.float64),
            masks=masks,
            size=size,
            path=self.samples[index].target.path,
        )

    def save(self, folder: Path, images: Iterable[RefinedImage]) -> None:
        for image in images:
            changed = set(image.changed)
            for i, (file, _) in enumerate(self.files[image.index]):
                target = folder / self.path.name / file.relative_to(self.path)
                save_mask(file, target, image.masks[i] if i in changed else None)
