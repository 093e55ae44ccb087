"""LabelMe's JSON, one file per image: polygons, rectangles, circles, masks, keypoints, and flags of whole images.

Points are in pixels from the image's top left corner. X-AnyLabeling and other descendants write the same.

Source: labelme, `label_file.py` and `utils/shape.py`.
"""

from __future__ import annotations

import base64
import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vertebra.data.annotations import split_folders
from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    PLACES,
    Export,
    ExportedImage,
    Invalid,
    Shape,
    attach,
    beginning,
    bounds,
    ellipse_shape,
    files_in,
    mapping,
    mask_shape,
    pairs,
    polygon_shape,
    stated_size,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, first_line, shown
from vertebra.files import read_json
from vertebra.images import FORMATS, SUFFIXES, read_image

PRIORITY = 24
FIELDS = frozenset({"label", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "LabelMe JSON"
KEYS = (b'"shapes"', b'"flags"', b'"version"', b'"imagePath"', b'"imageData"', b'"imageHeight"')
EXAMINED = 5
"""JSON files of a folder by which it is recognised."""
MAX_EMBEDDED = 2 << 30
"""Bytes of decoded images, of those that are inside of JSON alone, that are kept in memory."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder that holds some, in itself or in the folders of splits."""
    return _is_labelme(path) or (path.is_dir() and bool(_folders(path)))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images that have a JSON file; polygons and boxes with one label and one group_id are one object.

    Points with the group_id of an object are its keypoints, named by their labels. The flag that is set for an image
    is its class as a whole.

    Raises:
        VertebraError: if a file is damaged.
    """
    export = Export(path, "labelme", options)
    others: list[Path] = []
    flagged = embedded = 0
    for split, folder in ({"train": path.parent} if path.is_file() else _folders(path)).items():
        images = set()
        for file in [path] if path.is_file() else files_in(folder, ".json"):
            content = read_json(file)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                others.append(file)
                continue
            with export.skipping(str(file)) as where:
                entry = _entry(export, where, file, split, content)
                flags = [name for name, value in _flags(content).items() if value is True]
                entry.label = text(flags[0], "flag") if len(flags) == 1 else None
                flagged += len(flags) > 1
                if entry.pixels is not None:
                    embedded += entry.pixels.numel()
                    _check_memory(file, embedded)
                images.add(entry.image)
                export.add(split, entry)
        places = {image.parent for image in images if isinstance(image, Path)}
        count = sum(name.lower().endswith(SUFFIXES) for place in places for name in export.listing.names(place))
        if path.is_dir() and (rest := count - sum(str(image) in export.listing for image in images)):
            export.notes.append(f"images of the {split} split without a JSON file, which are ignored: {rest}")
    if others:
        export.notes.append(f"ignored, not LabelMe's: {len(others)} JSON files, {others[0]} for one")
    if flagged:
        export.notes.append(f"images with several flags set, which therefore have no class as a whole: {flagged}")
    return export.catalogue()


def _is_labelme(file: Path) -> bool:
    content = beginning(file) if file.name.lower().endswith(".json") else b""
    return content.startswith(b"{") and b'"regions"' not in content and sum(key in content for key in KEYS) > 1


def _holds(folder: Path) -> bool:
    return any(map(_is_labelme, files_in(folder, ".json")[:EXAMINED]))


def _folders(path: Path) -> dict[str, Path]:
    """The folder of JSON files of each split."""
    for place in PLACES:
        if _holds(path / place):
            return {"train": path / place}
        if (path / place).is_dir() and (folders := split_folders(path / place, _holds)):
            return folders
    tops = split_folders(path, lambda _: True)
    places = {split: next(filter(_holds, (top / place for place in PLACES)), None) for split, top in tops.items()}
    return {split: place for split, place in places.items() if place is not None}


def _flags(content: dict[str, Any]) -> dict[str, Any]:
    flags = content.get("flags")
    return flags if isinstance(flags, dict) else {}


def _check_memory(file: Path, count: int) -> None:
    if count > MAX_EMBEDDED:
        raise VertebraError(
            f"{file}: its image and those before it are inside of the JSON files alone and take more than "
            f"{MAX_EMBEDDED:,} bytes decoded; put the image files beside the JSON files."
        )


def _entry(export: Export, where: str, file: Path, split: str, content: dict[str, Any]) -> ExportedImage:
    stated = [content["imagePath"]] if isinstance(content.get("imagePath"), str) and content["imagePath"] else []
    image = export.images(file, split)(*stated, *(f"{file.stem}{suffix}" for suffix in SUFFIXES))
    size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
    entry = ExportedImage(where, image, size)
    if str(image) not in export.listing and content.get("imageData"):
        entry.pixels = _decoded(content["imageData"], "imageData", 3)
        entry.size = (entry.pixels.shape[1], entry.pixels.shape[2])
    objects: dict[Any, Shape] = {}
    points: list[tuple[str, Any, str, list[float], float]] = []
    for i, item in enumerate(content["shapes"], 1):
        with export.skipping(f"{where}, shape {i}") as inside:
            item = mapping(item, "shape")
            name = text(item.get("label"), "label")
            group = item.get("group_id")
            if item.get("shape_type") == "point":
                points.append((inside, group, name, _points(item, 1), 1.0 if item.get("difficult") is True else 2.0))
                continue
            shape = _shape(inside, name, item, entry, i)
            shape.crowd = item.get("difficult") is True
            key = (name, str(group)) if group is not None else i
            objects[key] = _joined(objects[key], shape) if key in objects else shape
    for inside, group, name, point, visibility in points:
        with export.skipping(inside):
            owners = [shape for key, shape in objects.items() if isinstance(key, tuple) and key[1] == str(group)]
            if group is None or len(owners) != 1:
                wrong = "no group_id" if group is None else f"the group_id of {len(owners)} objects"
                raise Invalid(f"a point is a keypoint of the object with its group_id, but it has {wrong}")
            attach(owners[0].keypoints, name, point, visibility)
    entry.shapes = list(objects.values())
    return entry


def _points(item: dict[str, Any], count: int) -> list[float]:
    points = pairs(item.get("points"), "points")
    if len(points) < 2 * count:
        raise Invalid(f"it has {len(points) // 2} points, {count} are expected")
    return points


def _shape(where: str, name: str, item: dict[str, Any], entry: ExportedImage, i: int) -> Shape:
    kind = item.get("shape_type") or "polygon"
    if kind == "rectangle":
        return Shape(where, name, bounds(_points(item, 2)), id=i)
    if kind in ("polygon", "rotation"):
        return polygon_shape(where, name, [_points(item, 3)], i)
    if kind == "circle":
        cx, cy, x, y = _points(item, 2)[:4]
        radius = math.hypot(x - cx, y - cy)
        return ellipse_shape(where, name, (cx, cy), (radius, radius), id=i)
    if kind == "mask":
        mask = _decoded(item.get("mask"), "mask", 1)[0].numpy() > 0
        x, y = _points(item, 1)[:2]
        return mask_shape(where, name, mask, (round(x), round(y)), entry.known_size(), i)
    raise Invalid(f"its shape_type is {shown(kind)}; polygon, rectangle, circle, mask and point are read")


def _joined(first: Shape, second: Shape) -> Shape:
    """Two shapes of one group as one object."""
    segment = first.segment or second.segment
    if isinstance(first.segment, list) and isinstance(second.segment, list):
        segment = first.segment + second.segment
    elif first.segment and second.segment:
        raise Invalid("its group has a mask beside other shapes")
    return Shape(first.where, first.name, bounds([*first.box, *second.box]), segment, crowd=first.crowd, id=first.id)


def _decoded(data: Any, what: str, channels: int) -> Tensor:
    """An image file in base64: [channels, H, W] uint8."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused
            image = Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS)
            return read_image(image, channels)
    except (TypeError, ValueError, OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise Invalid(f"its {what} cannot be decoded ({first_line(error)})") from error
    except Image.DecompressionBombError as error:
        raise Invalid(f"its {what} is too large to be decoded") from error
