"""Datumaro's JSON, which CVAT, Geti and OpenVINO write: boxes, polygons, masks, ellipses, keypoints and labels.

Coordinates are pixels from the image's top left corner; a box is x, y, width, height.

Source: Datumaro's documentation, "Datumaro Format", and its `plugins/data_formats/datumaro`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vertebra.data import segments
from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    Shape,
    around,
    attach,
    beginning,
    ellipse_shape,
    has_files,
    mapping,
    number,
    polygon_shape,
    split_files,
    stated_size,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, shown
from vertebra.files import read_json

PRIORITY = 29
FIELDS = frozenset({"label", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "Datumaro JSON"
CATEGORIES = re.compile(rb'"categories"\s*:\s*\{')
"""An object, where COCO's categories are a list."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with `annotations/SPLIT.json`, or with one in each folder of a split."""
    return has_files(path, ".json", _is_datumaro)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """`annotations/SUBSET.json` and `images/SUBSET/`; the classes are the labels, in their order.

    Raises:
        VertebraError: if a file is damaged.
    """
    export = Export(path, "datumaro", options)
    classes: dict[str, None] = {}
    for split, file in split_files(path, ".json", _is_datumaro).items():
        content = read_json(file)
        try:
            labels, items = content["categories"]["label"]["labels"], content["items"]
            names = [label["name"] for label in labels]
            classes |= {label["name"]: None for label in labels if not label.get("parent")}
            if not isinstance(items, list):
                raise TypeError
        except (KeyError, TypeError, AttributeError) as error:
            wrong = "categories.label.labels (a list of names) and items (a list) are expected"
            raise VertebraError(f"{file} is not Datumaro's JSON: {wrong}.") from error
        find = export.images(file, split)
        for place, item in enumerate(items, 1):
            with export.skipping(f"{file}, item {place}") as where:
                item = mapping(item, "item")
                media = item.get("image") or item.get("media") or {}
                media = mapping(media, "image")
                name = text(item.get("id"), "id")
                stated = [media["path"]] if isinstance(media.get("path"), str) and media["path"] else []
                size = media.get("size")
                height, width = size if isinstance(size, list) and len(size) == 2 else (None, None)
                image = find(*(f"{file.stem}/{other}" for other in (*stated, name)), *stated, name)
                entry = ExportedImage(where, image, stated_size(width, height))
                annotations = item.get("annotations", [])
                if not isinstance(annotations, list):
                    raise Invalid(f"its annotations are {shown(annotations)}, a list is expected")
                for i, annotation in enumerate(annotations, 1):
                    with export.skipping(f"{where}, annotation {i}") as inside:
                        _add(export, entry, inside, mapping(annotation, "annotation"), names, i)
                export.add(split, entry)
    return export.catalogue(list(classes))


def _is_datumaro(file: Path) -> bool:
    content = beginning(file)
    return content.startswith(b"{") and (b'"dm_format_version"' in content or bool(CATEGORIES.search(content)))


def _label(annotation: dict[str, Any], names: list[str]) -> str:
    place = annotation.get("label_id")
    if type(place) is not int or not 0 <= place < len(names):
        raise Invalid(f"its label_id is {shown(place)}, 0 to {len(names) - 1} are expected")
    return text(names[place], "label")


def _numbers(annotation: dict[str, Any], key: str, count: int | None = None) -> list[float]:
    values = annotation.get(key)
    if not isinstance(values, list) or len(values) % 2 or len(values) != (len(values) if count is None else count):
        raise Invalid(f"its {key} is {shown(values)}, {count or 'pairs of x and y as'} numbers are expected")
    return [number(value, key) for value in values]


def _add(
    export: Export, entry: ExportedImage, where: str, annotation: dict[str, Any], names: list[str], i: int
) -> None:
    """Adds an object, or the class of the image as a whole."""
    kind, name = annotation.get("type"), _label(annotation, names)
    if kind == "label":
        entry.label = name
    elif kind == "bbox":
        x, y, width, height = _numbers(annotation, "bbox", 4)
        attributes = mapping(annotation.get("attributes") or {}, "attributes")
        degrees = number(attributes.get("rotation") or 0, "rotation")
        box = export.rotated_box([x, y, x + width, y + height], (x + width / 2, y + height / 2), degrees)
        entry.shapes.append(Shape(where, name, box, id=i))
    elif kind == "polygon":
        entry.shapes.append(polygon_shape(where, name, [_numbers(annotation, "points")], i))
    elif kind == "ellipse":
        x1, y1, x2, y2 = _numbers(annotation, "points", 4)
        radii = ((x2 - x1) / 2, (y2 - y1) / 2)
        entry.shapes.append(ellipse_shape(where, name, ((x1 + x2) / 2, (y1 + y2) / 2), radii, id=i))
    elif kind == "mask":
        size = entry.known_size()
        segment: Any = annotation.get("rle")
        if fault := segments.fault(segment, size):
            raise Invalid(fault)
        x, y, mask = segments.crop(segment, size, where)
        if not mask.numel():
            raise Invalid("its mask has no pixel")
        box = [x, y, x + mask.shape[1], y + mask.shape[0]]
        entry.shapes.append(Shape(where, name, box, segment, area=float(mask.sum()), id=i))
    elif kind in ("points", "skeleton"):
        keypoints: dict[str, tuple[float, float, float]] = {}
        elements = annotation.get("elements") if kind == "skeleton" else [annotation]
        for part in elements if isinstance(elements, list) else []:
            part = mapping(part, "element")
            points, states = _numbers(part, "points"), part.get("visibility") or []
            for j in range(0, len(points), 2):
                state = states[j // 2] if isinstance(states, list) and j // 2 < len(states) else 2
                if state:
                    key = _label(part, names) if kind == "skeleton" else str(j // 2)
                    attach(keypoints, key, points[j : j + 2], number(state, "visibility"))
        entry.shapes.append(Shape(where, name, around(keypoints), keypoints=keypoints, id=i))
    else:
        raise Invalid(f"its type is {shown(kind)}; bbox, polygon, ellipse, mask, points, skeleton and label are read")
