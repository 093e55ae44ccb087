"""A folder of images with one COCO JSON file among them."""

from __future__ import annotations

from pathlib import Path

from vertebra.data.catalogue import Catalogue
from vertebra.data.formats import ReadOptions, coco
from vertebra.files import read_bytes

PRIORITY = 70
FIELDS = coco.FIELDS
TITLE = "COCO JSON"


def recognise(path: Path) -> bool:
    """Whether one JSON file lies in the folder itself and looks like COCO's."""
    return path.is_dir() and _file(path) is not None


def read(path: Path, options: ReadOptions) -> Catalogue:
    """As COCO reads that file."""
    file = _file(path)
    assert file is not None
    return coco.read(file, options)


def _file(path: Path) -> Path | None:
    files = [file for file in path.glob("*.json") if file.is_file() and not file.name.startswith(".")]
    if len(files) != 1:
        return None
    content = read_bytes(files[0])
    return files[0] if all(word in content for word in (b'"images"', b'"annotations"', b'"categories"')) else None
