"""CreateML's JSON: a list of images, each with boxes (centre and size in pixels), or with one class as a whole.

Source: Apple's developer documentation, "Building an object detector data source".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import Export, ExportedImage, Shape, beginning, has_files, mapping, number, split_files, text
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError
from vertebra.files import read_json

PRIORITY = 28
FIELDS = frozenset({"label", "boxes", "labels", "crowd", "areas"})
TITLE = "CreateML JSON"
KEYS = re.compile(rb'^\[\s*\{[^{}\[\]]*"(image|imagefilename|annotations?)"\s*:')
"""The beginning of a list of objects with one of the format's keys, in any order."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".json", _is_createml)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """A file as Create ML and Roboflow (`_annotations.createml.json`) write it, its images beside it.

    Raises:
        VertebraError: if a file is damaged, or not a list of images.
    """
    export = Export(path, "createml", options)
    for split, file in split_files(path, ".json", _is_createml).items():
        content = read_json(file)
        if not isinstance(content, list):
            raise VertebraError(f"{file} is not CreateML's JSON: a list of images is expected.")
        find = export.images(file, split)
        for place, item in enumerate(content, 1):
            with export.skipping(f"{file}, image {place}") as where:
                item = mapping(item, "entry")
                image = find(text(item.get("image", item.get("imagefilename")), "image"))
                annotations = item.get("annotations", item.get("annotation"))
                entry = ExportedImage(where, image)
                if isinstance(annotations, str):
                    entry.label = text(annotations, "label")
                    annotations = None
                for i, annotation in enumerate([] if annotations is None else _list(annotations), 1):
                    with export.skipping(f"{where}, annotation {i}") as inside:
                        entry.shapes.append(_shape(inside, annotation, i))
                export.add(split, entry)
    return export.catalogue()


def _is_createml(file: Path) -> bool:
    content = beginning(file)
    return bool(KEYS.match(content)) and b'"annotation' in content and b'"image' in content


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shape(where: str, annotation: Any, i: int) -> Shape:
    annotation = mapping(annotation, "annotation")
    name = text(annotation.get("label"), "label")
    sides = mapping(annotation.get("coordinates"), "coordinates")
    x, y, width, height = (number(sides.get(key), key) for key in ("x", "y", "width", "height"))
    return Shape(where, name, [x - width / 2, y - height / 2, x + width / 2, y + height / 2], id=i)
