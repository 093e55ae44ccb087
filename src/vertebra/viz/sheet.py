"""A contact sheet: images of a dataset with their annotations, in an even grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import pad

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.geometry import Example, resize
from vertebra.errors import VertebraError, shown
from vertebra.files import expanded, replacing
from vertebra.images import PackedImage, read_image
from vertebra.structures import KeypointSchema, Preprocess, Target
from vertebra.viz import draw, fonts, maps

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of the file of a sheet, and their formats."""
MAX_IMAGES = 24
MIN_IMAGES = 4
"""Of a split, if it has as many."""
COLUMNS = 6
SIDE = 320
"""Longer side of an image in pixels; smaller images are enlarged by a whole factor."""
MARGIN = 16
LINE = 20
"""Height of a line of text, and of the legend's lines."""
UNREADABLE = "cannot be read"


class Kind(Protocol):
    """The part of a kind of prediction that a sheet needs; see `kinds.base.Kind`."""

    def pad(self, target: Target, size: tuple[int, int]) -> Target: ...

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image: ...

    def legend(self, targets: Sequence[Target], classes: Sequence[str]) -> list[tuple[str, maps.Colour]]: ...


def is_sheet(path: str) -> bool:
    """Whether a path ends as the file of a sheet does."""
    return Path(path).suffix.lower() in SUFFIXES


def check(path: str) -> None:
    """Raises VertebraError if a path does not end as the file of a sheet does."""
    if not is_sheet(path):
        raise VertebraError(
            f"save is {shown(path)}; a contact sheet ends in {', '.join(SUFFIXES)} (a folder is for the built-in "
            "images: `vertebra data shapes --save=FOLDER`)."
        )


def save(path: str, catalogue: Catalogue, kind: Kind) -> int:
    """Writes the contact sheet of a dataset, and returns the number of its images.

    Up to MAX_IMAGES, evenly spread over every split, with their annotations drawn in, each below its file name and
    split; a legend of the classes at the foot where the kind has one.

    Raises:
        VertebraError: if the path has another ending than those of SUFFIXES, is a file of the dataset, or cannot be
            written.
    """
    check(path)
    file = expanded(path)
    samples = [sample for members in catalogue.splits.values() for sample in members]
    origins = [(sample.image, sample.label_map and sample.label_map.path) for sample in samples]
    files = {origin.file if isinstance(origin, PackedImage) else origin for pair in origins for origin in pair}
    if file.resolve() in {origin.resolve() for origin in files if isinstance(origin, Path)}:
        raise VertebraError(f"{path} is a file of the dataset and would be overwritten: choose another name.")
    places = spread({split: len(members) for split, members in catalogue.splits.items()})
    sheet = _sheet(catalogue, kind, places)
    with replacing(file) as temporary:
        sheet.save(temporary, SUFFIXES[file.suffix.lower()], quality=90)
    return len(places)


def spread(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The split and index of up to MAX_IMAGES images, evenly spread over each split, from the `sizes` of the splits.

    Every split gets at least MIN_IMAGES, or all of its images; the rest is allocated in proportion to the sizes of the
    splits (D'Hondt method).
    """
    counts = {split: min(size, MIN_IMAGES) for split, size in sizes.items()}
    while sum(counts.values()) < min(MAX_IMAGES, sum(sizes.values())):
        rest = [split for split, size in sizes.items() if counts[split] < size]
        counts[max(rest, key=lambda split: sizes[split] / (counts[split] + 1))] += 1
    return [(split, (2 * i + 1) * sizes[split] // (2 * count)) for split, count in counts.items() for i in range(count)]


def _sheet(catalogue: Catalogue, kind: Kind, places: Sequence[tuple[str, int]]) -> Image.Image:
    cells, targets = [], []
    for split, index in places:
        sample = catalogue.splits[split][index]
        try:
            image, target = _example(sample, kind)
        except VertebraError:
            drawn = Image.new("RGB", (draw.MIN_WIDTH, draw.MIN_WIDTH), "#eeeeee")
            pen = ImageDraw.Draw(drawn)
            fonts.write(pen, MARGIN, draw.MIN_WIDTH / 2, UNREADABLE, size=14, fill="black")
        else:
            drawn = kind.draw_target(image, target, catalogue.classes, keypoints=catalogue.keypoints)
            targets.append(target)
        cells.append((Path(sample.target.path).name or f"image {index + 1}", split, drawn))
    columns = min(COLUMNS, len(cells))
    width = max(drawn.width for _, _, drawn in cells)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(drawn.height for _, _, drawn in row) + 2 * LINE + MARGIN for row in rows]
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, bottom, height in zip(rows, itertools.accumulate(heights), heights, strict=True):
        for i, (name, split, drawn) in enumerate(row):
            x, y = MARGIN + i * (width + MARGIN), MARGIN + bottom - height
            fonts.write(pen, x, y + LINE / 2, fonts.shortened(name, width, 14), size=14, fill="black")
            fonts.write(pen, x, y + LINE * 3 / 2, split, size=13, fill="#666666")
            sheet.paste(drawn, (x, y + 2 * LINE))
    return maps.with_legend(sheet, kind.legend(targets, catalogue.classes), LINE + 4)


def _example(sample: Sample, kind: Kind) -> tuple[Tensor, Target]:
    """The image of a sample and its target in the size in which they are drawn, narrow ones beside white pixels."""
    image = read_image(sample.image, len(sample.image) if isinstance(sample.image, Tensor) else 3)
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    small = scale >= 1
    scale = int(scale) if small else scale
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    preprocess = Preprocess(interpolation="nearest" if small else "bilinear")
    example = resize(Example(image, sample.load_target((height, width))), size, preprocess)
    padding = max(0, draw.MIN_WIDTH - size[1])  # narrower ones would be drawn larger
    return pad(example.image, (0, padding), value=255), kind.pad(example.target, (size[0], size[1] + padding))
