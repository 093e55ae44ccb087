"""CSV lists of boxes, one in each line: RetinaNet's, TensorFlow's and Open Images'.

- RetinaNet: no header, `path,x1,y1,x2,y2,class`; a line with the path alone is an image without objects. A
  `_classes.csv` or `classes.csv` beside it has the order of the classes: `class,number`.
- TensorFlow: `filename,width,height,class,xmin,ymin,xmax,ymax`. Columns of other orders and common names do as well.
- Open Images: `ImageID,...,LabelName,...,XMin,XMax,YMin,YMax`, in shares of the image.

Other numbers than Open Images' are pixels from the image's top left corner, the end of a box exclusive.

Source: exports of Roboflow; fizyr/keras-retinanet's README; the documentation of Open Images V7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vertebra.data.catalogue import SPLIT_NAMES, Catalogue
from vertebra.data.exports import (
    Export,
    ExportedImage,
    Invalid,
    Shape,
    by_name,
    csv_rows,
    first_rows,
    has_files,
    number,
    split_files,
    stated_size,
    text,
)
from vertebra.data.formats import ReadOptions
from vertebra.errors import shown
from vertebra.images import SUFFIXES

PRIORITY = 9
FIELDS = frozenset({"boxes", "labels", "crowd", "areas"})
TITLE = "CSV lists of boxes"
COLUMNS = {
    "image": ("filename", "file_name", "path", "image", "image_path", "imageid", "image_id", "img"),
    "class": ("class", "label", "labelname", "class_name", "category", "name"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": ("split", "subset", "set"),
    "group": ("isgroupof",),
}
"""What a column holds, and what it is called, in lower case."""
NEEDED = ("image", "class", "x1", "y1", "x2", "y2")
RETINANET = ("image", "x1", "y1", "x2", "y2", "class")
CLASSES = ("_classes.csv", "classes.csv")
DESCRIPTIONS = ("class-descriptions-boxable.csv", "class-descriptions.csv", "oidv7-class-descriptions-boxable.csv")
"""Open Images' names of its classes, beside its lists: `code,name`."""


PREDICTIONS = ("predictions.csv", "predictions.json", "images.json")
"""What `vertebra predict` writes beside drawings of objects."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with one in each folder of a split."""
    return has_files(path, ".csv", _is_boxes)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the lists, which lie beside them; all are train, unless a folder or a column says otherwise.

    Numbers that are all in 0..1 are shares of the image.

    Raises:
        VertebraError: if a list cannot be read as CSV.
    """
    export = Export(path, "csv_boxes", options)
    classes: list[str] = []
    for split, file in split_files(path, ".csv", _is_boxes).items():
        rows = csv_rows(file)
        first = rows[0][1]
        names = _header(first) or list(RETINANET)
        lines = [(f"{file}, line {line}", row) for line, row in rows[bool(_header(first)) :]]
        open_images = "labelname" in map(str.lower, first)
        descriptions = _descriptions(file) if open_images else {}
        classes += [name for name in _classes(file) if name not in classes]
        entries: dict[tuple[str, str], ExportedImage] = {}
        shares = _all_shares(names, (row for _, row in lines))
        for where, row in lines:
            with export.skipping(where):
                values = by_name(names, row)
                name = text(values["image"], "image")
                part = _split(values.get("split", ""), split)
                if (part, name) not in entries:
                    image = export.images(file, part)(name)
                    size = stated_size(values.get("width"), values.get("height"))
                    entries[part, name] = ExportedImage(f"{file}, image {shown(name)}", image, size)
                    export.add(part, entries[part, name])
                if any(values[key] for key in NEEDED[1:]):
                    shape = _shape(where, values, entries[part, name], shares)
                    shape.name = descriptions.get(shape.name, shape.name)
                    entries[part, name].shapes.append(shape)
        if shares and not open_images:
            export.notes.append(f"{file.name}: its numbers are all in 0..1, and are read as shares of the image")
    return export.catalogue(classes)


def hint(path: Path) -> str:
    """Of what `vertebra predict` has written, how it is made a dataset."""
    if not (path.is_dir() and _is_prediction(path / PREDICTIONS[0])):
        return ""
    return (
        f"{path} holds predictions and drawings of them: to train on predictions, write them with `vertebra predict "
        "--format=` yolo, voc, labelme or cvat."
    )


def _is_prediction(file: Path) -> bool:
    return file.name == PREDICTIONS[0] and all(file.with_name(name).is_file() for name in PREDICTIONS)


def _is_boxes(file: Path) -> bool:
    if _is_prediction(file):
        return False
    rows = first_rows(file)
    return bool(rows) and (bool(_header(rows[0])) or all(_is_retinanet(row) for row in rows))


def _is_retinanet(row: Sequence[str]) -> bool:
    if len(row) != len(RETINANET) or not row[0].lower().endswith(SUFFIXES):
        return False
    return not any(row[1:]) or all(value.lstrip("-").replace(".", "", 1).isdigit() for value in row[1:5])


def _header(row: Sequence[str]) -> list[str]:
    """What each column holds, or its own name if that is not read; nothing if one that is needed is missing."""
    holds = {alias: what for what, aliases in COLUMNS.items() for alias in aliases}
    names = [holds.get(value.lower(), f"{i}") for i, value in enumerate(row)]
    return names if all(names.count(what) == 1 for what in NEEDED) else []


def _all_shares(names: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """Whether every number of a box is in 0..1, and not all are whole."""
    places = [names.index(key) for key in ("x1", "y1", "x2", "y2")]
    values = [row[place] for row in rows for place in places if place < len(row) and row[place]]
    try:
        numbers = [number(value, "box") for value in values]
    except Invalid:
        return False
    return bool(numbers) and min(numbers) >= 0 and max(numbers) <= 1 and any(value % 1 for value in numbers)


def _split(value: str, default: str) -> str:
    if value and value.lower() not in SPLIT_NAMES:
        raise Invalid(f"its split is {shown(value)}, not one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[value.lower()] if value else default


def _shape(where: str, values: dict[str, str], entry: ExportedImage, shares: bool) -> Shape:
    name = text(values["class"], "class")
    box = [number(values[key], key) for key in ("x1", "y1", "x2", "y2")]
    if shares:
        height, width = entry.known_size()
        box = [round(value * side, 3) for value, side in zip(box, (width, height, width, height), strict=True)]
    return Shape(where, name, box, crowd=values.get("group") == "1", id=len(entry.shapes) + 1)


def _classes(file: Path) -> list[str]:
    """The classes by their numbers, if there is a list of them."""
    for name in CLASSES:
        if (file.parent / name).is_file():
            rows = [row for _, row in csv_rows(file.parent / name)]
            if all(len(row) == 2 and row[1].isdigit() for row in rows):
                return [row[0] for row in sorted(rows, key=lambda row: (len(row[1]), row[1]))]
    return []


def _descriptions(file: Path) -> dict[str, str]:
    """Open Images' names of its classes by their codes."""
    tops = (file.parent, file.parent.parent, file.parent / "metadata", file.parent.parent / "metadata")
    places = [top / name for top in tops for name in (*DESCRIPTIONS, *CLASSES)]
    existing = next((place for place in places if place.is_file()), None)
    return {row[0]: row[1] for _, row in csv_rows(existing) if len(row) == 2} if existing else {}
