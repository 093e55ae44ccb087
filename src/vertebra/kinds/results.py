"""Instance masks that any tool has predicted, in files: the contract of their forms.

A module of this folder named FORM_results.py that has `read_masks` is a form that `vertebra refine` reads and writes;
nothing is registered. It has
- TITLE, its name in messages;
- recognise(path) -> bool;
- read_masks(path, catalogue, split) -> MaskResults.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from vertebra.data import segments
from vertebra.data.catalogue import Catalogue
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.images import image_size
from vertebra.structures import Masks, Prediction

LEFT_IMAGE = "_leftImg8bit"
"""Ends the names of Cityscapes' images, and not those of their results."""


@dataclass(frozen=True)
class RefinedImage:
    """The masks of an image once they are refined."""

    index: int
    """The image, among the samples of the split."""
    masks: Masks
    """In the order of `MaskResults.prediction`."""
    changed: Sequence[int]
    """The masks that are not as they were."""


class MaskResults(Protocol):
    """Results with instance masks, for the images of a split."""

    labelled: bool
    """Whether the instances have classes of the dataset; if not, all labels are 0."""

    def count(self, index: int) -> int:
        """The masks of an image, by its index among the samples of the split."""
        ...

    def prediction(self, index: int) -> Prediction:
        """Masks, labels and scores of an image in the order of the files; scores are 1 where there are none.

        Raises:
            VertebraError: if a mask cannot be decoded.
        """
        ...

    def save(self, folder: Path, images: Iterable[RefinedImage]) -> None:
        """Writes the results into a folder in their form, with other masks and all else as it was.

        Args:
            folder: exists.
            images: all that have masks, consumed one by one.
        """
        ...


def forms() -> dict[str, ModuleType]:
    """Every form, by name."""
    package = importlib.import_module(__name__.rpartition(".")[0])
    modules = {
        info.name.removesuffix("_results"): importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name.endswith("_results")
    }
    return {name: module for name, module in modules.items() if hasattr(module, "read_masks")}


def read_masks(path: Path, catalogue: Catalogue, split: str) -> MaskResults:
    """Results in any form.

    Args:
        path: a file or folder.
        catalogue: the dataset with their images.
        split: its split that they are of.

    Raises:
        VertebraError: if they are in no known form, damaged, or do not fit the dataset.
    """
    if not path.exists():
        raise VertebraError(f"{path} is not there.")
    for module in forms().values():
        if module.recognise(path):
            results: MaskResults = module.read_masks(path, catalogue, split)
            return results
    *others, last = (module.TITLE for module in forms().values())
    raise VertebraError(f"{path} has no results with masks: {', '.join(others)} or {last} are expected.")


class ImageNames:
    """The images of a split by the names of files with their results."""

    def __init__(self, catalogue: Catalogue, split: str) -> None:
        self.place = f"the {split} split of {catalogue.path}"
        self.names = [Path(sample.target.path).stem for sample in catalogue.split(split)]
        self.indices: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            for key in {name, name.removesuffix(LEFT_IMAGE)}:
                self.indices.setdefault(key, []).append(index)

    def exact(self, name: str, where: object) -> int | None:
        """The image of that name, without its ending; `where` names the results in errors.

        Raises:
            VertebraError: if several images have that name.
        """
        first, *others = self.indices.get(name, [None])
        if others:
            raise VertebraError(f"{where}: {len(others) + 1} images of {self.place} are called {name}.")
        return first

    def longest(self, name: str, where: object) -> int | None:
        """The image whose name is the longest beginning of `name` up to an underscore; as `exact` otherwise."""
        while name not in self.indices and "_" in name:
            name = name.rpartition("_")[0]
        return self.exact(name, where)

    def missing(self, where: object) -> VertebraError:
        """The error for a file of no image."""
        return VertebraError(
            f"{where}: no image of {self.place} has a name that this begins with; one is called {self.names[0]}."
        )


def check_size(path: Path, size: tuple[int, int] | None) -> None:
    """Raises VertebraError if a mask file is not there, no image, or not of the image's (height, width) `size`."""
    height, width = image_size(path)
    if size is not None and (height, width) != tuple(size):
        raise VertebraError(
            f"{path}: a mask of {height} x {width} pixels lies on an image of {size[0]} x {size[1]} (height x width)."
        )


def read_mask(path: Path, masks: Masks) -> None:
    """Appends the mask in an image file, whose pixels are 0 and one other value.

    Raises:
        VertebraError: if it cannot be read, is of another size or has more values.
    """
    pixels = _grey(path)
    if pixels.shape != tuple(masks.size):
        check_size(path, masks.size)
    if (count := len(np.unique(pixels[pixels != 0]))) > 1:
        raise VertebraError(f"{path}: its pixels have {count} values beside 0; a mask has one.")
    x, y, crop = segments.crop(path, masks.size, str(path))
    masks.corners.append((x, y))
    masks.crops.append(crop)


def save_mask(path: Path, target: Path, mask: Tensor | None) -> None:
    """Writes a mask file of the form of another one.

    Args:
        path: the file with the mask as it was.
        target: the file to write.
        mask: [H, W] bool, with the value of the pixels as they were; a copy of the file is made if None.
    """
    with replacing(target) as temporary:
        if mask is None:
            shutil.copyfile(path, temporary)
        else:
            pixels = _grey(path)
            value = pixels.max() or np.iinfo(np.uint8).max
            image = Image.fromarray(np.where(mask.numpy(), value, 0).astype(pixels.dtype))
            image.save(temporary, Image.registered_extensions()[path.suffix.lower()])


def _grey(path: Path) -> np.ndarray:
    """The pixels of a mask file, [H, W]: of colours the largest of their values, of bits 0 and 255."""
    pixels = segments.pixels_of(path)
    pixels = pixels.max(-1) if pixels.ndim == 3 else pixels
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
