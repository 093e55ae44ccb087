"""The class, tags, objects and captions of an image as a row of a table has them, as in Hugging Face's data sets.

A row has `label`, a list of `tags` or `labels` where an image may have several, or `objects` with `bbox` (x, y, width,
height in pixels, as COCO has them) and `category`; `segmentation`, `keypoints`, `area` and `iscrowd` are as in COCO.
Captions are `caption`, `captions` or `text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.data.exports import Export, ExportedImage, Invalid, Shape, mapping, number, tag_names, text
from vertebra.data.sentences import MAX_LENGTH
from vertebra.errors import shown
from vertebra.files import parse_json

LABELS = ("label", "labels", "class", "cls")
"""Names of the class of a whole image."""
TAGS = ("tags", *LABELS)
"""Names of the list of the classes of an image that may have several or none."""
CATEGORIES = ("category", "categories", "label", "labels", "class", "classes")
"""Names of the list of the objects' classes."""

CAPTIONS = ("caption", "captions", "text", "comment", "sentence", "sentences")
"""Names of the sentence that describes an image, or of the list of such."""


def fill(
    entry: ExportedImage,
    row: Mapping[str, Any],
    export: Export,
    labels: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> None:
    """Gives an image the class or tags, the objects and the captions of its row; a wrong object is listed in `export`.

    Args:
        labels: names of the classes of whole images, which numbers stand for; without them, classes that are numbers
            are called by them.
        categories: those of objects.

    Raises:
        Invalid: if the class is wrong, or the objects as a whole are.
    """
    if export.options.fields == frozenset({"text"}):
        entry.captions = captions_of(row)
        return
    columns = LABELS if "bbox" not in row else ()  # else they are those of the objects
    fields = export.options.fields
    tags = _tags(row, export) if fields is None or fields & {"tags"} else None
    if tags is not None:
        if isinstance(tags, list):
            tags = [class_name(tag, "tag", labels) if type(tag) is int else tag for tag in tags]
        entry.tags = tag_names(tags)
        columns = ()
    label = next((row[key] for key in columns if row.get(key) not in (None, "")), None)
    if label is not None and not (labels and label == -1):  # which Hugging Face's sets have where there is none
        entry.label = class_name(label, "label", labels)
    if label is None and row.keys() & {*CAPTIONS} and not row.keys() & {"objects", "bbox"}:
        entry.captions = captions_of(row)
    for i, item in enumerate(_objects(entry.where, row), 1):
        with export.skipping(f"{entry.where}, object {i}") as where:
            entry.shapes.append(_shape(where, item, i, categories))


def _tags(row: Mapping[str, Any], export: Export) -> Any:
    """The list of the tags of a row; None if it has none."""
    value = row.get("tags")
    if isinstance(value, list) or (value is not None and export.options.fields == frozenset({"tags"})):
        return value
    if row.keys() & {"objects", "bbox"}:
        return None
    return next((row[key] for key in LABELS if isinstance(row.get(key), list)), None)


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """The captions of a row, at least one; Invalid if there is none, or one is no text, empty or very long."""
    value = next((row[key] for key in CAPTIONS if key in row), None)
    captions = [text(caption, "caption") for caption in (value if isinstance(value, list) and value else [value])]
    for caption in captions:
        if len(caption) > MAX_LENGTH:
            raise Invalid(f"its caption has {len(caption):,} characters, more than {MAX_LENGTH:,}")
    return captions


def class_name(value: Any, what: str, names: Sequence[str] = ()) -> str:
    """The name of a class; a number as that of `names`, or as text without them. Invalid if it is neither."""
    if type(value) is not int:
        return text(value, what)
    if names and not 0 <= value < len(names):
        raise Invalid(f"its {what} is {value}, 0 to {len(names) - 1} is expected")
    return names[value] if names else str(value)


def _objects(where: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of an image, one mapping each; stated so, or as a mapping of lists."""
    objects = row.get("objects", row if "bbox" in row else {})
    if isinstance(objects, str):  # in CSV
        objects = parse_json(objects or "[]", f"{where}, objects")
    if isinstance(objects, list):
        return [mapping(item, "object") for item in objects]
    columns = {key: value for key, value in mapping(objects or {}, "objects").items() if isinstance(value, list)}
    boxes = columns.get("bbox", [])
    uneven = [key for key, values in columns.items() if len(values) != len(boxes)]
    if uneven and (boxes or set(uneven) & set(CATEGORIES)):
        raise Invalid(f"its {shown(uneven[0])} has {len(columns[uneven[0]])} values for {len(boxes)} boxes")
    return [{key: values[i] for key, values in columns.items()} for i in range(len(boxes))]


def _shape(where: str, item: dict[str, Any], i: int, names: Sequence[str]) -> Shape:
    name = class_name(next((item[key] for key in CATEGORIES if key in item), None), "category", names)
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise Invalid(f"its bbox is {shown(box)}, [x, y, width, height] is expected")
    x, y, width, height = (number(value, "bbox") for value in box)
    shape = Shape(where, name, [x, y, x + width, y + height], item.get("segmentation"), id=i)
    shape.crowd, shape.area = item.get("iscrowd", False), item.get("area")
    keypoints = item.get("keypoints")
    if isinstance(keypoints, list):
        flat = [value for part in keypoints for value in (part if isinstance(part, list) else [part])]
        if len(flat) % 3:
            raise Invalid("its keypoints are not three numbers each")
        for j in range(0, len(flat), 3):
            x, y, visibility = (number(value, "keypoints") for value in flat[j : j + 3])
            shape.keypoints[str(j // 3)] = (x, y, visibility)
    return shape


def in_numeric_order(export: Export) -> list[str]:
    """The classes or tags of whole images that are called by numbers, in the order of these; none if one is no
    number."""
    entries = [entry for members in export.splits.values() for entry in members]
    names = {entry.label for entry in entries if entry.label is not None}
    names |= {tag for entry in entries for tag in entry.tags or ()}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else []
