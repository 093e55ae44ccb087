"""CVAT's XML 1.1, for images and for video: boxes, polygons, ellipses, masks, skeletons, points and tags.

Coordinates are pixels from the image's top left corner; a box ends where `xbr` and `ybr` say.

Source: CVAT's documentation, "XML annotation format", and `dataset_manager/formats/cvat.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from vertebra.data.annotations import split_of
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
    mask_shape,
    number,
    polygon_shape,
    split_files,
    stated_size,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import read_xml
from vertebra.images import MAX_PIXELS

PRIORITY = 22
FIELDS = frozenset({"label", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "CVAT XML"
ROOT = re.compile(rb"<annotations[\s>]")
SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask", "skeleton", "cuboid")
FRAME_SUFFIXES = (".PNG", ".png", ".jpg", ".JPG", ".jpeg")


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".xml", _is_cvat)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """`annotations.xml` and `images/`; of a video, those of its frames that are there as `frame_000000.png`, ....

    The classes are the labels of the task, in its order. The box of a skeleton is around its keypoints. A project's
    subsets are the splits. A tag is the class of its image as a whole.

    Raises:
        VertebraError: if a file is damaged.
    """
    export = Export(path, "cvat", options)
    classes: dict[str, None] = {}
    skeletons: dict[str, tuple[str, ...]] = {}
    for split, file in split_files(path, ".xml", _is_cvat).items():
        root = read_xml(file)
        if root.tag != "annotations":
            raise VertebraError(f"{file} is not CVAT's XML: its root is <{escaped(root.tag[:80])}>, not <annotations>.")
        for label in root.findall("meta//label"):
            name, parent = (label.findtext("name") or "").strip(), (label.findtext("parent") or "").strip()
            if parent:
                skeletons[parent] = (*skeletons.get(parent, ()), name)
            elif name and (label.findtext("type") or "").strip() != "tag":
                classes[name] = None
        for image in root.findall("image"):
            with export.skipping(f"{file}, image {shown(image.get('id', ''))}"):
                _add_image(export, file, split, image)
        _add_tracks(export, file, split, root)
    keypoints = _keypoints(export, skeletons)
    return export.catalogue(list(classes), keypoints)


def _is_cvat(file: Path) -> bool:
    return bool(ROOT.search(beginning(file)[:4096]))


def _keypoints(export: Export, skeletons: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The names of the keypoints in their order, none if the classes have different ones; None if no label has any."""
    different = list(dict.fromkeys(skeletons.values()))
    if len(different) < 2:
        return different[0] if different else None
    if export.options.fields is not None and "keypoints" in export.options.fields:
        raise VertebraError(
            f"{export.path}: the labels {', '.join(map(shown, skeletons))} have different keypoints, but a model has "
            "the same keypoints for all classes."
        )
    export.notes.append("keypoints are ignored, because the labels have different ones")
    return ()


def _add_image(export: Export, file: Path, split: str, image: Element) -> None:
    name = text(image.get("name"), "name")
    where = f"{file}, image {shown(name)}"
    subset = image.get("subset") or ""
    split = split_of(subset) or split
    names = [f"{subset}/{name}", name] if subset else [name]
    size = stated_size(image.get("width"), image.get("height"))
    entry = ExportedImage(where, export.images(file, split)(*names), size)
    tags = [text(tag.get("label"), "label of a tag") for tag in image.findall("tag")]
    entry.label = tags[0] if len(tags) == 1 else None
    shapes = [element for element in image if element.tag in SHAPES]
    for i, element in enumerate(shapes, 1):
        with export.skipping(f"{where}, {element.tag} {i}") as inside:
            entry.shapes.append(_shape(export, inside, text(element.get("label"), "label"), element, entry, i))
    export.add(split, entry)


def _add_tracks(export: Export, file: Path, split: str, root: Element) -> None:
    """The frames of a video that show a track, and the shapes in them."""
    height, width = (root.findtext(f"meta//original_size/{side}") for side in ("height", "width"))
    entries: dict[tuple[str, int], ExportedImage] = {}
    for track in root.findall("track"):
        where = f"{file}, track {shown(track.get('id', ''))}"
        subset = track.get("subset") or ""
        part = split_of(subset) or split
        find = export.images(file, part)
        for element in track:
            if element.tag not in SHAPES or element.get("outside") == "1":
                continue
            with export.skipping(f"{where}, frame {shown(element.get('frame', ''))}") as inside:
                frame = int(number(element.get("frame"), "frame"))
                if (subset, frame) not in entries:
                    names = [f"frame_{frame:06}{suffix}" for suffix in FRAME_SUFFIXES]
                    image = find(*(f"{subset}/{name}" for name in names if subset), *names)
                    entry = ExportedImage(f"{file}, frame {frame}", image, stated_size(width, height))
                    entries[subset, frame] = entry
                    export.add(part, entry)
                entry = entries[subset, frame]
                name = text(track.get("label"), "label")
                entry.shapes.append(_shape(export, inside, name, element, entry, len(entry.shapes) + 1))


def _points(element: Element) -> list[float]:
    points = [pair.split(",") for pair in text(element.get("points"), "points").split(";")]
    if any(len(pair) != 2 for pair in points):
        raise Invalid("its points are not x,y;x,y;...")
    return [number(value, "points") for pair in points for value in pair]


def _visibility(element: Element) -> float:
    return 1.0 if element.get("occluded") == "1" else 2.0


def _shape(export: Export, where: str, name: str, element: Element, entry: ExportedImage, i: int) -> Shape:
    def values(*keys: str) -> list[float]:
        return [number(element.get(key), key) for key in keys]

    kind = element.tag
    degrees = number(element.get("rotation") or 0, "rotation")
    if kind == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        return Shape(where, name, export.rotated_box([x1, y1, x2, y2], ((x1 + x2) / 2, (y1 + y2) / 2), degrees), id=i)
    if kind == "polygon":
        return polygon_shape(where, name, [_points(element)], i)
    if kind == "ellipse":
        cx, cy, rx, ry = values("cx", "cy", "rx", "ry")
        return ellipse_shape(where, name, (cx, cy), (rx, ry), degrees, i)
    if kind == "mask":
        left, top, width, height = (int(value) for value in values("left", "top", "width", "height"))
        mask = _mask(element.get("rle", ""), width, height)
        return mask_shape(where, name, mask, (left, top), entry.known_size(), i)
    if kind in ("skeleton", "points"):
        keypoints: dict[str, tuple[float, float, float]] = {}
        if kind == "points":
            points = _points(element)
            for j in range(0, len(points), 2):
                keypoints[str(j // 2)] = (points[j], points[j + 1], _visibility(element))
        for part in element.findall("points"):
            if part.get("outside") != "1":
                attach(keypoints, text(part.get("label"), "label of a point"), _points(part), _visibility(part))
        return Shape(where, name, around(keypoints), keypoints=keypoints, id=i)
    raise Invalid(f"it is a {kind}; boxes, polygons, ellipses, masks, skeletons and points are read")


def _mask(rle: str, width: int, height: int) -> np.ndarray:
    """A mask [height, width] bool from the lengths of its runs of 0 and 1 in turn, row by row."""
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise Invalid(f"its mask is {width} x {height} pixels")
    try:
        runs = np.array([int(run) for run in rle.split(",")], np.int64)
    except (ValueError, OverflowError):
        raise Invalid(f"its rle is {shown(rle)}, run lengths are expected") from None
    if runs.min() < 0 or runs.max() > width * height or runs.sum() != width * height:
        raise Invalid(f"its run lengths do not add up to its {width} x {height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
