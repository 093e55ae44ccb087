"""Results as Cityscapes' evaluation reads them: a text file per image, and an image file per instance.

A line of a text file has the path of the mask, relative to the text file, the label ID and the score:
`frankfurt_000000_000294_0.png 26 0.9731`. The name of a text file begins with that of the image, without `_leftImg8bit`
or with it. Every nonzero pixel of a mask belongs to the instance.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from vertebra.data.catalogue import Catalogue
from vertebra.data.formats.label_maps import CITYSCAPES, CITYSCAPES_IDS
from vertebra.errors import VertebraError, shown
from vertebra.files import MAX_DIGITS, is_number, read_text, replacing
from vertebra.kinds.results import ImageNames, RefinedImage, check_size, read_mask, save_mask
from vertebra.progress import track
from vertebra.structures import Masks, Prediction

TITLE = "Cityscapes' text files with masks"
LINE = re.compile(rf"(.+\.png)\s+(\d{{1,{MAX_DIGITS}}})\s+(\S+)\s*", re.IGNORECASE)
EXAMINED = 20
"""Text files of a folder that are looked at to recognise it; those of images without instances are empty."""
NAMES = dict(zip(CITYSCAPES_IDS, CITYSCAPES, strict=True))


@dataclass(frozen=True)
class _Instance:
    file: Path
    label: int
    score: float


def recognise(path: Path) -> bool:
    """Whether a folder has text files of that form."""
    files = itertools.islice(_text_files(path), EXAMINED) if path.is_dir() else ()
    lines = (line for file in files for line in read_text(file).splitlines() if line.strip())
    return bool(LINE.fullmatch(next(lines, "")))


def read_masks(path: Path, catalogue: Catalogue, split: str) -> CityscapesResults:
    """The lines of all text files; the masks are read when they are needed.

    Raises:
        VertebraError: if a line is malformed, a mask is missing or of another size than its image, or a file is of no
            image or a label of no class of the dataset.
    """
    return CityscapesResults(path, catalogue, split)


def _text_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.txt") if file.is_file() and not file.name.startswith("."))


class CityscapesResults:
    """Results in Cityscapes' form; see `results.MaskResults`."""

    def __init__(self, path: Path, catalogue: Catalogue, split: str) -> None:
        self.path = path = Path(os.path.normpath(path))
        self.samples = catalogue.split(split)
        self.labelled = "masks" in catalogue.has
        self.catalogue = catalogue
        self.instances: dict[int, list[_Instance]] = {}
        names = ImageNames(catalogue, split)
        self.files = _text_files(path)
        for file in track(self.files, "reading results"):
            if (index := names.longest(file.stem, file)) is None:
                raise names.missing(file)
            instances = self.instances.setdefault(index, [])
            for number, line in enumerate(read_text(file).splitlines(), 1):
                if line.strip():
                    instances.append(self._instance(file, number, line))
                    check_size(instances[-1].file, self.samples[index].size)

    def _instance(self, text_file: Path, number: int, line: str) -> _Instance:
        where = f"{text_file}, line {number}"
        match = LINE.fullmatch(line)
        if not match:
            raise VertebraError(f"{where}: {shown(line)} is not the path of a .png, a label ID and a score.")
        name, label, score = match.groups()
        try:
            value = float(score)
        except ValueError:
            value = float("nan")
        if not is_number(value):
            raise VertebraError(f"{where}: the score is {shown(score)}, not a number up to 1e9.")
        file = Path(os.path.normpath(text_file.parent / name.strip()))
        if not file.is_relative_to(self.path):
            raise VertebraError(f"{where}: {shown(name)} lies outside of {self.path}.")
        if not file.is_file():
            raise VertebraError(f"{where}: the mask {shown(name)} is not there.")
        return _Instance(file, self._label(int(label), where) if self.labelled else 0, value)

    def _label(self, number: int, where: str) -> int:
        """The class of a label ID: by its name in Cityscapes, else as a category id of the dataset."""
        classes, ids = self.catalogue.classes, self.catalogue.category_ids
        if (name := NAMES.get(number, "")) in classes:
            return classes.index(name)
        if number in ids:
            return ids.index(number)
        called = f", {name} in Cityscapes," if name else ""
        raise VertebraError(
            f"{where}: the label ID {number}{called} is no class of {self.catalogue.path}; there are "
            f"{', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}."
        )

    def count(self, index: int) -> int:
        return len(self.instances.get(index, ()))

    def prediction(self, index: int) -> Prediction:
        instances = self.instances.get(index, [])
        size = self.samples[index].size
        assert size is not None
        masks = Masks(size)
        for instance in instances:
            read_mask(instance.file, masks)
        return Prediction(
            labels=torch.tensor([instance.label for instance in instances], dtype=torch.int64),
            scores=torch.tensor([instance.score for instance in instances], dtype=torch.float64),
            masks=masks,
            size=size,
            path=self.samples[index].target.path,
        )

    def save(self, folder: Path, images: Iterable[RefinedImage]) -> None:
        for file in self.files:
            with replacing(self._target(folder, file)) as temporary:
                shutil.copyfile(file, temporary)
        for image in images:
            changed = set(image.changed)
            for i, instance in enumerate(self.instances[image.index]):
                mask = image.masks[i] if i in changed else None
                save_mask(instance.file, self._target(folder, instance.file), mask)

    def _target(self, folder: Path, file: Path) -> Path:
        return folder / self.path.name / file.relative_to(self.path)
