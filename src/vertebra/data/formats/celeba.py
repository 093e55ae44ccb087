"""CelebA's attributes as tags: `list_attr_celeba.txt`, and the splits in `list_eval_partition.txt` beside it.

The first line is the number of images, the second has the names of the attributes; every other line is an image and 1
or -1 for each attribute. In the file of splits, a line is an image and 0 (train), 1 (val) or 2 (test).

Source: Deep Learning Face Attributes in the Wild, arXiv:1411.7766; the README of the dataset.
"""

from __future__ import annotations

from pathlib import Path

from vertebra.data.catalogue import SPLITS, Catalogue
from vertebra.data.exports import Export, ExportedImage, Invalid
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, shown
from vertebra.files import read_text

PRIORITY = 8
FIELDS = frozenset({"tags"})
TITLE = "CelebA's attributes"
NAME = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
FOLDERS = ("", "celeba")
"""Where the file lies in the folder of the dataset; torchvision's has the second."""


def recognise(path: Path) -> bool:
    """Whether it is the file of attributes, or a folder with it."""
    return _file(path) is not None


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images, which lie in a folder beside the file; all are train without a file of splits.

    Raises:
        VertebraError: if the file has no names of attributes, or no image has an attribute.
    """
    file = _file(path)
    assert file is not None, "recognised"
    export = Export(path, "celeba", options)
    lines = read_text(file).split("\n")
    names = lines[1].split() if len(lines) > 1 else []
    if not names or not lines[0].strip().isdigit():
        raise VertebraError(f"{file}, line 1: the number of images is expected, and below it the attributes' names.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise VertebraError(f"{file}, line 2: two attributes are called {shown(twice)}.")
    parts = _partition(file, export)
    find = export.tagged_images(file, "train")
    for line, content in enumerate(lines[2:], 3):
        if not content.strip():
            continue
        with export.skipping(f"{file}, line {line}") as where:
            image, *values = content.split()
            if len(values) != len(names):
                raise Invalid(f"it has {len(values)} values for {len(names)} attributes")
            if wrong := [value for value in values if value not in ("1", "-1", "0")]:
                raise Invalid(f"one of its values is {shown(wrong[0])}, 1 or -1 is expected")
            entry = ExportedImage(where, find(image))
            entry.tags = [name for name, value in zip(names, values, strict=True) if value == "1"]
            export.add(parts.get(image, "train"), entry)
    return export.catalogue()


def _file(path: Path) -> Path | None:
    if path.name == NAME:
        return path if path.is_file() else None
    return next((file for folder in FOLDERS if (file := path / folder / NAME).is_file()), None)


def _partition(file: Path, export: Export) -> dict[str, str]:
    """The split of each image by its name, as far as a file tells it."""
    listed = file.with_name(PARTITION)
    parts: dict[str, str] = {}
    for line, content in enumerate(read_text(listed).split("\n") if listed.is_file() else [], 1):
        words = content.split()
        if not words:
            continue
        with export.skipping(f"{listed}, line {line}"):
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise Invalid("an image and 0, 1 or 2 are expected")
            parts[words[0]] = list(SPLITS)[int(words[1])]
    return parts
