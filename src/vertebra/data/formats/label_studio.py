"""Label Studio's own JSON and its JSON-MIN: boxes, polygons, ellipses, brush masks, keypoints and choices.

Coordinates are percent of the image's width and height.

Source: Label Studio's documentation, "Label Studio task format" and the pages of its tags; of brush masks, rle-pack of
thi.ng/umbrella.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from vertebra.data.catalogue import Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    Shape,
    attach,
    beginning,
    ellipse_shape,
    has_files,
    mapping,
    mask_shape,
    number,
    pairs,
    polygon_shape,
    split_files,
    stated_size,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import shown
from vertebra.files import read_json
from vertebra.images import SUFFIXES

PRIORITY = 26
FIELDS = frozenset({"label", "boxes", "labels", "masks", "keypoints", "crowd", "areas"})
TITLE = "Label Studio JSON"
KEYS = (b'"completed_by"', b'"result"', b'"was_cancelled"', b'"file_upload"', b'"completions"')
MIN_KEYS = (b'"annotation_id"', b'"annotator"')
MIN_META = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
"""Keys of JSON-MIN that are neither data nor results."""
CHOICES = ("choice", "choices", "class", "label", "category")
"""Names of the choice that is the class, where JSON-MIN has several texts."""
SIDES = ("original_width", "original_height", "image_rotation")
PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Of the names of uploaded files."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".json", _is_label_studio)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The annotated tasks of a file: of several annotations, the ground truth, or else the last.

    A keypoint belongs to the region that is its parent, or else to the only one of its image. An image is searched by
    the end of its path or URL, with and without the prefix of uploads.

    Raises:
        VertebraError: if a file is damaged, or not a list of tasks.
    """
    export = Export(path, "label_studio", options)
    counts: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for split, file in split_files(path, ".json", _is_label_studio).items():
        content = read_json(file)
        tasks = content if isinstance(content, list) else [content]
        find = export.images(file, split)
        choice = _choice(tasks)
        for place, task in enumerate(tasks, 1):
            number_of = task.get("id", place) if isinstance(task, dict) else place
            with export.skipping(f"{file}, task {shown(number_of)}") as where:
                task = mapping(task, "task")
                results = _results(task, counts, choice)
                if results is None:
                    continue
                data = task.get("data", task)
                entry = ExportedImage(where, find(*_image_names(mapping(data, "data"), task)))
                _fill(export, entry, results, ignored)
                export.add(split, entry)
    for what, count in counts.items():
        export.notes.append(f"tasks {what}: {count}")
    if ignored:
        types = ", ".join(f"{shown(name)} ({count})" for name, count in ignored.most_common(5))
        export.notes.append(f"ignored, neither objects nor choices: {types}")
    return export.catalogue()


def _is_label_studio(file: Path) -> bool:
    content = beginning(file)
    if not content.startswith((b"[", b"{")) or b'"categories"' in content:
        return False
    tasks = b'"annotations"' in content or b'"completions"' in content
    return all(key in content for key in MIN_KEYS) or (tasks and any(key in content for key in KEYS))


@dataclass
class _Region:
    """What several results of one id say together."""

    value: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None


def _results(task: dict[str, Any], counts: Counter[str], choice: str | None) -> list[dict[str, Any]] | None:
    """The results of a task, None if it has no annotation."""
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None:
        return _min_results(task, choice)
    if not isinstance(annotations, list):
        raise Invalid(f"its annotations are {shown(annotations)}, a list is expected")
    valid = [mapping(annotation, "annotation") for annotation in annotations]
    valid = [a for a in valid if not a.get("was_cancelled") and not a.get("skipped")]
    if not valid:
        counts["without an annotation, which are ignored"] += 1
        return None
    if len(valid) > 1:
        counts["with several annotations, of which the ground truth or the last is read"] += 1
    chosen = next((a for a in valid if a.get("ground_truth") is True), valid[-1])
    results = chosen.get("result")
    if not isinstance(results, list):
        raise Invalid(f"its result is {shown(results)}, a list is expected")
    return results


def _min_results(task: dict[str, Any], choice: str | None) -> list[dict[str, Any]]:
    """The results of a task of JSON-MIN in the form of the whole JSON."""
    results: list[dict[str, Any]] = []
    for key, values in task.items():
        if isinstance(values, list):
            results += [{"value": value} if isinstance(value, dict) else value for value in values]
        elif isinstance(values, dict) and "choices" in values:
            results.append({"value": values})
        elif key == choice and isinstance(values, str):
            results.append({"value": {"choices": [values]}})
    return results


def _choice(tasks: list[Any]) -> str | None:
    """The key of JSON-MIN that has the chosen class as text."""
    names = [
        key
        for task in tasks
        if isinstance(task, dict) and "annotations" not in task
        for key, value in task.items()
        if key not in MIN_META and isinstance(value, str) and not _is_image(value)
    ]
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else next((name for name in CHOICES if name in names), None)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and value.split("?d=")[-1].split("?")[0].lower().endswith(SUFFIXES)


def _image_names(data: dict[str, Any], task: dict[str, Any]) -> list[str]:
    """What the file of a task's image may be called, the most likely name first."""
    keys = sorted(data, key=lambda key: key not in ("image", "img"))
    value = next((data[key] for key in keys if _is_image(data[key])), None) or task.get("file_upload")
    url = text(value, "image")
    parts = urlsplit(url) if "://" in url or url.startswith("/data/") else None
    paths = [url] if parts is None else [*parse_qs(parts.query).get("d", []), unquote(parts.path)]
    names = [name for name in (*paths, task.get("file_upload")) if isinstance(name, str) and name.strip("/")]
    return [other for name in names for other in (name, PREFIX.sub("", name.rpartition("/")[2]))]


def _fill(export: Export, entry: ExportedImage, results: Sequence[Any], ignored: Counter[str]) -> None:
    """Adds the objects and the class of an image."""
    shapes: dict[Any, Shape] = {}
    keypoints: list[tuple[str, _Region, str, tuple[float, float]]] = []
    chosen: list[str] = []
    regions: dict[Any, _Region] = {}
    for i, result in enumerate(results, 1):
        with export.skipping(f"{entry.where}, result {i}"):
            result = mapping(result, "result")
            value = mapping(result.get("value", {}), "value")
            if isinstance(value.get("choices"), list) and "x" not in value:
                chosen += [text(choice, "choice") for choice in value["choices"]]
                continue
            if "x" not in value and "points" not in value and "rle" not in value:
                ignored[str(result.get("type"))] += 1
                continue
            sides = {key: result[key] for key in SIDES if key in result}
            region = regions.setdefault(str(result["id"]) if result.get("id") else i, _Region())
            region.value |= sides | value
            region.parent = region.parent or (str(result["parentID"]) if result.get("parentID") else None)
    for i, (key, region) in enumerate(regions.items(), 1):
        with export.skipping(f"{entry.where}, region {i}") as where:
            value, name = region.value, _label(region.value)
            if value.get("image_rotation") not in (None, 0):
                raise Invalid(f"the image is rotated by {shown(value['image_rotation'])} degrees in Label Studio")
            size = stated_size(value.get("original_width"), value.get("original_height")) or entry.known_size()
            entry.size = size
            if {"rle", "points", "height", "radiusX"}.isdisjoint(value):
                keypoints.append((where, region, name, _point(value, size)))
            else:
                shapes[key] = _shape(export, where, name, value, size, i)
    for where, region, name, point in keypoints:
        with export.skipping(where):
            owner = shapes.get(region.parent) if region.parent or len(shapes) != 1 else next(iter(shapes.values()))
            if owner is None:
                raise Invalid(f"a keypoint belongs to its parent, or to the only other region; there are {len(shapes)}")
            attach(owner.keypoints, name, point, 2.0)
    entry.shapes = list(shapes.values())
    entry.label = chosen[0] if len(chosen) == 1 else None


def _label(value: dict[str, Any]) -> str:
    labels = [label for key, names in value.items() if key.endswith("labels") for label in _list(names)]
    if len(labels) != 1:
        raise Invalid(f"it has {len(labels)} labels, one is expected" if labels else "it has no label")
    return text(labels[0], "label")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pixels(value: Any, key: str, side: int) -> float:
    """Percent to pixels, to a thousandth: the last digits decide on which side of a pixel centre a border is."""
    return round(number(value, key) / 100 * side, 3)


def _point(value: dict[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    return _pixels(value.get("x"), "x", size[1]), _pixels(value.get("y"), "y", size[0])


def _shape(export: Export, where: str, name: str, value: dict[str, Any], size: tuple[int, int], i: int) -> Shape:
    height, width = size
    if "rle" in value:
        top, mask = _brush(value["rle"], size)
        return mask_shape(where, name, mask, (0, top), size, i)
    if "points" in value:
        points = pairs(value["points"], "points")
        polygon = [_pixels(value, "points", size[1 - j % 2]) for j, value in enumerate(points)]
        return polygon_shape(where, name, [polygon], i)
    x, y = _point(value, size)
    degrees = number(value.get("rotation") or 0, "rotation")
    if "radiusX" in value:
        radii = _pixels(value["radiusX"], "radiusX", width), _pixels(value.get("radiusY"), "radiusY", height)
        return ellipse_shape(where, name, (x, y), radii, degrees, i)
    right = _pixels(number(value.get("x"), "x") + number(value.get("width"), "width"), "width", width)
    bottom = _pixels(number(value.get("y"), "y") + number(value.get("height"), "height"), "height", height)
    return Shape(where, name, export.rotated_box([x, y, right, bottom], (x, y), degrees), id=i)


def _brush(values: Any, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    """The rows of a brush mask that have pixels: the number of the first, and the mask [h, W] bool.

    The values are bytes. Their bits are: the number of values (32 bits), the bits of a value less 1 (5), the bits of
    four kinds of lengths less 1 (4 each), and then runs: whether a value is repeated (1), the kind of its length (2),
    the length less 1, and the value, or else as many values. The values are RGBA, row by row.
    """
    if not isinstance(values, list) or not all(isinstance(value, int) and 0 <= value < 256 for value in values):
        raise Invalid("its rle is not a list of bytes")
    data = bytes(values)
    position, end = 0, 8 * len(data)

    def bits(count: int) -> int:
        nonlocal position
        if position + count > end:
            raise Invalid("its rle ends before its last pixel")
        first, last = position // 8, -(-(position + count) // 8)
        position += count
        return int.from_bytes(data[first:last], "big") >> (8 * last - position) & ((1 << count) - 1)

    (height, width), count = size, bits(32)
    if count != 4 * height * width:
        raise Invalid(f"its rle has {count} values, 4 for each of {width} x {height} pixels are expected")
    word = bits(5) + 1
    lengths = [bits(4) + 1 for _ in range(4)]
    if word != 8:
        raise Invalid(f"its rle has values of {word} bits, 8 are expected")
    alphas: list[tuple[int, int]] = []  # of pixels that are set: the first value and the one behind the last
    start = 0
    while start < count:
        repeated = bits(1)
        stop = min(start + 1 + bits(lengths[bits(2)]), count)
        if repeated:
            if bits(word):
                alphas.append((start, stop))
        else:
            alphas += [(i, i + 1) for i in range(start, stop) if bits(word) and i % 4 == 3]
        start = stop
    if not alphas:
        raise Invalid("its mask has no pixel")
    runs = [(start // 4, stop // 4) for start, stop in alphas]  # of pixels, whose alpha is their fourth value
    top, bottom = min(first for first, _ in runs) // width, -(-max(last for _, last in runs) // width)
    mask = np.zeros((bottom - top) * width, bool)
    for first, last in runs:
        mask[first - top * width : last - top * width] = True
    return top, mask.reshape(-1, width)
