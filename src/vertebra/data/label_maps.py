"""Label maps in image files: which value or colour is which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vertebra.errors import VertebraError
from vertebra.images import StoredImage, decode, open_image
from vertebra.structures import IGNORED, Target

MAX_CLASSES = 255
"""Label maps have a byte per pixel, of which 255 says that a pixel is ignored."""
THRESHOLD = 128
"""Least value of the foreground where masks are grey: JPEG files have no exact values."""
SHOWN = 5
"""Values of no class that a message names beside the first."""

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
    """The file of an image's label map, or its place in a larger file."""

    path: Path | StoredImage
    table: LabelTable

    def load(self, size: tuple[int, int]) -> Tensor:
        """[H, W] uint8, for an image of (height, width) `size`; 255 is ignored.

        Raises:
            VertebraError: if the file cannot be read, is of another size, or has a value or colour without a class.
        """
        with open_image(self.path) as image:
            decode(image)
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
            return self._labels(image)

    def _labels(self, image: Image.Image) -> Tensor:
        if image.mode == "LA":  # grey with transparency
            image = image.getchannel("L")
        if len(image.getbands()) == 1 and not (image.mode == "P" and self._is_coloured(image)):
            return self._by_value(np.asarray(image))
        if not self.table.colours:
            raise VertebraError(
                f"{self.path}: the label map is in colour, and no colours are given for the classes; a grey or "
                "indexed file with the number of the class of each pixel is expected."
            )
        return self._by_colour(np.asarray(image.convert("RGB")))

    def _is_coloured(self, image: Image.Image) -> bool:
        """Whether the colours of an indexed file, not its indices, say which class a pixel is of.

        Where both say the same, as in files of VOC and CVAT, the indices do: a border may have a colour of no class.
        Where they differ, the colours do if most of the palette are the table's, since tools that save colours as an
        indexed file number them as they come. Other palettes are for viewing: the few colours that they share with
        the table, as black, must not turn indices into other classes, unless an index is of no class at all.
        """
        palette = list(zip(*[iter(image.getpalette() or [])] * 3, strict=False))
        used = np.flatnonzero(image.histogram()).tolist()
        by_colour = [self.table.colours.get(palette[i], -1) if i < len(palette) else -1 for i in used]
        by_value = self.table.by_value[used].tolist()
        if all(label in (-1, value) for label, value in zip(by_colour, by_value, strict=True)):
            return False
        distinct = set(palette)
        mostly = 2 * len(distinct & self.table.colours.keys()) > len(distinct)
        return mostly or (-1 in by_value and -1 not in by_colour)

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
        with np.errstate(invalid="ignore"):  # NaN
            index = values.astype(np.uint8)
        labels = self.table.by_value[index]
        if values.dtype != np.uint8:
            labels[index != values] = -1  # negative, beyond 255 or not whole
        if (wrong := labels < 0).any():
            row, column = np.argwhere(wrong)[0]
            first = values[row, column].item()
            others = [str(value) for value in np.unique(values[wrong]).tolist() if value != first]
            more = f" (nor are {', '.join(others[:SHOWN])}{', ...' * (len(others) > SHOWN)})" if others else ""
            known = sorted(value for value, label in self.table.values.items() if label != IGNORED)
            raise VertebraError(
                f"{self.path}: the value {first} in row {row}, column {column} is of no class{more}; those from "
                f"{known[0]} to {known[-1]} are."
            )
        return torch.from_numpy(labels.astype(np.uint8))

    def _by_colour(self, pixels: NDArray[Any]) -> Tensor:
        codes, classes = self.table.by_colour
        code = _code(pixels)
        place = np.searchsorted(codes, code).clip(max=len(codes) - 1)
        wrong = codes[place] != code
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise VertebraError(f"{self.path}: {self._unknown(pixels[row, column].tolist(), row, column)}.")
        return torch.from_numpy(classes[place].astype(np.uint8))

    def _unknown(self, colour: Sequence[int], row: int, column: int) -> str:
        return (
            f"the colour ({', '.join(map(str, colour))}) in row {row}, column {column} is of none of the "
            f"{len(self.table.classes)} classes"
        )


@dataclass(frozen=True)
class PanopticMap(LabelMap):
    """A file of COCO's panoptic format: the colour of a pixel is the id of its segment, red + 256 green + 65,536 blue.

    The table has the class of each segment of the image, by that colour.
    """

    def _labels(self, image: Image.Image) -> Tensor:
        if image.mode not in ("RGB", "RGBA"):
            raise VertebraError(f"{self.path}: an image of Pillow's mode {image.mode}; ids of segments are in RGB.")
        return self._by_colour(np.asarray(image.convert("RGB")))

    def _unknown(self, colour: Sequence[int], row: int, column: int) -> str:
        number = colour[0] + 256 * colour[1] + 65_536 * colour[2]
        return f"the id {number} in row {row}, column {column} is of none of the segments in segments_info"


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
