"""Label maps in image files: which value or colour is which class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vertebra.errors import VertebraError
from vertebra.images import open_image
from vertebra.structures import IGNORED, Target

MAX_CLASSES = 255
"""Label maps have a byte per pixel, of which 255 says that a pixel is ignored."""
THRESHOLD = 128
"""Least value of the foreground where masks are grey: JPEG files have no exact values."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelTable:
    """The classes of label maps, by the values of their pixels or by their colours."""

    classes: tuple[str, ...]
    values: Mapping[int, int] = field(default_factory=dict)
    """Index of the class, or IGNORED, of each value of a grey or indexed file."""
    colours: Mapping[Colour, int] = field(default_factory=dict)
    """The same of each (red, green, blue)."""
    thresholded: bool = False
    """Whether a grey value of THRESHOLD or more is class 1, a lower one class 0, and nothing else matters."""

    def __post_init__(self) -> None:
        if len(self.classes) > MAX_CLASSES:
            raise VertebraError(f"{len(self.classes):,} classes; label maps have at most {MAX_CLASSES}.")

    @cached_property
    def by_value(self) -> NDArray[Any]:
        """[256] int16: index of the class, IGNORED, or -1 for values without a class."""
        table = np.full(256, -1, np.int16)
        for value, label in self.values.items():
            table[value] = label
        return table

    @cached_property
    def by_colour(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Codes of the colours, ascending, and the class of each."""
        codes = np.array([_code(np.array(colour)) for colour in self.colours], np.int64)
        order = codes.argsort()
        return codes[order], np.array(list(self.colours.values()), np.int16)[order]


@dataclass(frozen=True)
class LabelMap:
    """The file of an image's label map."""

    path: Path
    table: LabelTable

    def load(self, size: tuple[int, int]) -> Tensor:
        """[H, W] uint8, for an image of (height, width) `size`; 255 is ignored.

        Raises:
            VertebraError: if the file cannot be read, is of another size, or has a value or colour without a class.
        """
        with open_image(self.path) as image:
            image.load()
            if image.size != (size[1], size[0]):
                raise VertebraError(
                    f"{self.path}: the label map is {image.size[1]} x {image.size[0]} pixels, its image "
                    f"{size[0]} x {size[1]} (height x width)."
                )
            if self.table.thresholded:
                grey = np.asarray(image.convert("L"))
                return torch.from_numpy((grey >= THRESHOLD).astype(np.uint8))
            if image.format == "JPEG":
                raise VertebraError(
                    f"{self.path}: a label map is saved as JPEG, which changes the values along every edge: save "
                    "label maps as PNG."
                )
            indexed = image.mode == "P" and bool(self.table.values)
            if image.mode == "1":
                image = image.convert("L")
            if image.mode in ("L", "I", "I;16", "I;16B") or indexed:
                return self._by_value(np.asarray(image))
            if not self.table.colours:
                raise VertebraError(
                    f"{self.path}: the label map is in colour, and no colours are given for the classes; a grey or "
                    "indexed file with the number of the class of each pixel is expected."
                )
            return self._by_colour(np.asarray(image.convert("RGB")))

    def renumbered(self, numbers: Tensor, classes: tuple[str, ...]) -> LabelMap:
        """The label map in other numbers of the classes: `numbers` [K] of those that it has now, `classes` by name."""

        def new(label: int) -> int:
            return label if label == IGNORED else int(numbers[label])

        table = replace(
            self.table,
            classes=classes,
            values={value: new(label) for value, label in self.table.values.items()},
            colours={colour: new(label) for colour, label in self.table.colours.items()},
        )
        return replace(self, table=table)

    def _by_value(self, values: NDArray[Any]) -> Tensor:
        wide = values.dtype != np.uint8 and int(values.max(initial=0)) > 255
        labels = np.full(values.shape, -1, np.int16) if wide else self.table.by_value[values.astype(np.uint8)]
        if wide or labels.min(initial=0) < 0:
            at = np.argwhere((values > 255) if wide else (labels < 0))[0]
            known = sorted(self.table.values)
            raise VertebraError(
                f"{self.path}: the value {values[tuple(at)]} in row {at[0]}, column {at[1]} is of no class; those "
                f"from {known[0]} to {known[-1]} are."
            )
        return torch.from_numpy(labels.astype(np.uint8))

    def _by_colour(self, pixels: NDArray[Any]) -> Tensor:
        codes, classes = self.table.by_colour
        code = _code(pixels)
        place = np.searchsorted(codes, code).clip(max=len(codes) - 1)
        wrong = codes[place] != code
        if wrong.any():
            at = np.argwhere(wrong)[0]
            colour = ", ".join(map(str, pixels[tuple(at)].tolist()))
            raise VertebraError(
                f"{self.path}: the colour ({colour}) in row {at[0]}, column {at[1]} is of none of the "
                f"{len(self.table.classes)} classes."
            )
        return torch.from_numpy(classes[place].astype(np.uint8))


def _code(colours: NDArray[Any]) -> NDArray[Any]:
    """[..., 3] -> [...] int64."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def paint(target: Target) -> Tensor:
    """A label map [H, W] uint8 from the masks of a target: 0 is the background, 1 + class that of an object.

    Smaller objects are painted over larger ones, and all of them over the regions of crowds.
    """
    assert target.masks is not None
    assert target.labels is not None
    canvas = np.zeros(target.masks.size, np.uint8)
    areas = target.masks.areas()
    crowd = torch.zeros(len(areas)) if target.crowd is None else target.crowd.float()
    for i in (areas + crowd * canvas.size).argsort(descending=True).tolist():
        (x, y), mask = target.masks.corners[i], target.masks.crops[i].numpy()
        canvas[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = 1 + int(target.labels[i])
    return torch.from_numpy(canvas)
