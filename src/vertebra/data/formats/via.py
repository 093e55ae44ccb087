"""VGG Image Annotator's projects and annotations of versions 1 and 2, as JSON and CSV.

Numbers are pixels from the image's top left corner. The class of a region is one of its attributes.

Source: VIA 2.0, `via-2.x.y/src/js/_via.js`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    Shape,
    beginning,
    by_name,
    csv_rows,
    ellipse_shape,
    first_rows,
    has_files,
    mapping,
    number,
    polygon_shape,
    split_files,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, shown
from vertebra.files import parse_json, read_json

PRIORITY = 6
FIELDS = frozenset({"label", "boxes", "labels", "masks", "crowd", "areas"})
TITLE = "VIA JSON and CSV"
COLUMNS = ("filename", "file_attributes", "region_shape_attributes", "region_attributes")
CLASS_NAMES = ("class", "label", "name", "type")
"""Names of the attribute that is the class, where there are several."""
UNNAMED = "object"
"""Name of the class where no region has an attribute."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".json", _is_json) or has_files(path, ".csv", _is_csv)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The regions of a file, its images beside it.

    The class of a region is its only attribute, or else the one called class, label, name or type; of images as a
    whole likewise. Regions without attributes are of one class.

    Raises:
        VertebraError: if a file is damaged, or several attributes could be the class.
    """
    export = Export(path, "via", options)
    files = split_files(path, ".json", _is_json) or split_files(path, ".csv", _is_csv)
    images = {split: (file, list(_images(file, export))) for split, file in files.items()}
    every = [image for _, members in images.values() for image in members]
    attribute = _class_attribute((region.attributes for image in every for region in image.regions), path, "regions")
    of_images = _class_attribute((image.attributes for image in every), None, "images")
    if attribute is None and any(image.regions for image in every):
        export.notes.append(f"its regions have no attributes: all are of one class, {UNNAMED!r}")
    for split, (file, members) in images.items():
        find = export.images(file, split)
        for image in members:
            entry = ExportedImage(image.where, find(*image.names))
            for region in image.regions:
                with export.skipping(region.where) as where:
                    name = UNNAMED if attribute is None else _value(region.attributes.get(attribute), attribute)
                    entry.shapes.append(_shape(where, name, mapping(region.shape, "shape"), region.number))
            if of_images is not None and image.attributes.get(of_images):
                with export.skipping(f"{image.where}: the class of the image"):
                    entry.label = _value(image.attributes[of_images], of_images)
            export.add(split, entry)
    return export.catalogue()


@dataclass
class _Region:
    where: str
    number: int
    shape: Any
    attributes: dict[str, Any]


@dataclass
class _Image:
    where: str
    names: tuple[str, ...]
    """What its file may be called, the most likely name first."""
    attributes: dict[str, Any]
    regions: list[_Region]


def _is_json(file: Path) -> bool:
    content = beginning(file)
    return content.startswith(b"{") and (b'"_via_' in content or b'"file_attributes"' in content)


def _is_csv(file: Path) -> bool:
    return any(set(COLUMNS) <= set(_columns(row)) for row in first_rows(file)[:1])


def _columns(row: Iterable[str]) -> list[str]:
    return [name.removeprefix("#").strip() for name in row]  # version 1 writes #filename


def _images(file: Path, export: Export) -> Iterator[_Image]:
    return _images_of_csv(file, export) if file.suffix.lower() == ".csv" else _images_of_json(file, export)


def _images_of_json(file: Path, export: Export) -> Iterator[_Image]:
    content = read_json(file)
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise VertebraError(f"{file} is not VIA's JSON: an object of images, or _via_img_metadata, is expected.")
    folder = ""
    with contextlib.suppress(KeyError, TypeError):  # annotations without a project
        folder = str(content["_via_settings"]["core"]["default_filepath"])
    for key, image in images.items():
        with export.skipping(f"{file}, image {shown(key)}") as where:
            image = mapping(image, "entry")
            name = text(image.get("filename"), "filename")
            regions = image.get("regions") or []
            values = list(regions.values()) if isinstance(regions, dict) else regions  # an object in version 1
            if not isinstance(values, list):
                raise Invalid(f"its regions are {shown(regions)}, a list is expected")
            members = []
            for i, region in enumerate(values, 1):
                with export.skipping(f"{where}, region {i}") as inside:
                    region = mapping(region, "region")
                    attributes = mapping(region.get("region_attributes") or {}, "region_attributes")
                    members.append(_Region(inside, i, region.get("shape_attributes"), attributes))
            attributes = mapping(image.get("file_attributes") or {}, "file_attributes")
            yield _Image(where, (name, f"{folder}/{name}"), attributes, members)


def _images_of_csv(file: Path, export: Export) -> Iterator[_Image]:
    (_, header), *rows = csv_rows(file)
    columns = _columns(header)
    images: dict[str, _Image] = {}
    for line, row in rows:
        with export.skipping(f"{file}, line {line}") as where:
            values = by_name(columns, row)
            name = text(values["filename"], "filename")
            of_file, shape, attributes = (
                mapping(parse_json(values[column] or "{}", f"{where}, {column}"), column) for column in COLUMNS[1:]
            )
            image = images.setdefault(name, _Image(f"{file}, image {shown(name)}", (name,), of_file, []))
            if shape:  # an image without regions has a row too
                image.regions.append(_Region(where, len(image.regions) + 1, shape, attributes))
    yield from images.values()


def _class_attribute(attributes: Iterable[dict[str, Any]], path: Path | None, what: str) -> str | None:
    """The name of the attribute that is the class; None if there are none.

    Raises:
        VertebraError: if it could be any of several, and `path`, for the message, is given.
    """
    names = list(dict.fromkeys(name for values in attributes for name in values))
    if len(names) < 2:
        return names[0] if names else None
    for word in CLASS_NAMES:
        if matching := [name for name in names if name.strip().lower() == word]:
            return matching[0]
    if path is None:
        return None
    raise VertebraError(
        f"{path}: its {what} have {len(names)} attributes ({shown(', '.join(names))}); the class is read from the "
        f"only one, or from one called {', '.join(CLASS_NAMES[:-1])} or {CLASS_NAMES[-1]}. Rename one in VIA."
    )


def _value(value: Any, attribute: str) -> str:
    """The class in an attribute; of checkboxes, the one that is set."""
    if isinstance(value, dict):
        chosen = [name for name, is_set in value.items() if is_set is True]
        if len(chosen) != 1:
            raise Invalid(f"its {shown(attribute)} has {len(chosen)} values set, one is expected")
        value = chosen[0]
    return text(value, f"attribute {shown(attribute)}")


def _shape(where: str, name: str, shape: dict[str, Any], i: int) -> Shape:
    def values(*keys: str) -> list[float]:
        return [number(shape.get(key), key) for key in keys]

    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = values("x", "y", "width", "height")
        return Shape(where, name, [x, y, x + width, y + height], id=i)
    if kind == "circle":
        cx, cy, radius = values("cx", "cy", "r")
        return ellipse_shape(where, name, (cx, cy), (radius, radius), id=i)
    if kind == "ellipse":
        cx, cy, rx, ry = values("cx", "cy", "rx", "ry")
        degrees = math.degrees(number(shape.get("theta", 0), "theta"))
        return ellipse_shape(where, name, (cx, cy), (rx, ry), degrees, i)
    if kind in ("polygon", "polyline"):
        xs, ys = (shape.get(key) for key in ("all_points_x", "all_points_y"))
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise Invalid("its all_points_x and all_points_y are not lists of one length")
        polygon = [number(value, "points") for pair in zip(xs, ys, strict=True) for value in pair]
        if kind == "polyline" and polygon[:2] != polygon[-2:]:
            raise Invalid("it is an open polyline, which encloses no area")
        return polygon_shape(where, name, [polygon], i)
    raise Invalid(f"its shape is {shown(kind)}; rect, polygon, circle and ellipse are read")
