"""COCO's panoptic format: a JSON file, and for each image a PNG whose colours are the ids of its segments.

The label map of an image has the category of every segment; crowd segments and pixels of the id 0 are ignored.

Source: COCO's documentation, "Data format", section 4, "Panoptic Segmentation".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vertebra.data.annotations import CROWD, Listing, check_class_names, split_of
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.exports import by_split
from vertebra.data.formats import ReadOptions, coco
from vertebra.data.label_maps import MAX_CLASSES, LabelTable, PanopticMap
from vertebra.errors import VertebraError, shown
from vertebra.files import read_json
from vertebra.structures import IGNORED, Target

PRIORITY = 31
FIELDS = frozenset({"semantic"})
TITLE = "COCO panoptic JSON"
TYPES = {int: "a whole number", str: "text", list: "a list"}


def recognise(path: Path) -> bool:
    """Whether it is such a .json file, or a folder with one, in itself or in `annotations/`."""
    if path.is_file():
        return path.suffix.lower() == ".json" and coco.is_panoptic(path)
    return bool(_files(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The label maps of a COCO folder or of one JSON file.

    Images lie where those of COCO's other files do. The PNG files lie in a folder that is called as the JSON, beside it
    or beside `annotations/`. The classes are the categories in the order of the first file.

    Raises:
        VertebraError: if a file is damaged or not of this format, if an id is given twice or refers to nothing, if
            there are more than MAX_CLASSES categories, or if no image or no PNG is there.
    """
    files = {split_of(path.stem) or "train": path} if path.is_file() else by_split(_files(path))
    names: dict[int, str] = {}
    problems: list[str] = []
    listing = Listing()
    splits = {}
    for split in SPLITS:
        if split not in files:
            continue
        file, content = files[split], read_json(files[split])
        categories = _categories(file, content)
        names = names or categories
        if categories != names:
            raise VertebraError(f"{file}: its categories are not those of {next(iter(files.values()))}.")
        labels = {number: i for i, number in enumerate(names)}
        splits[split] = _samples(file, content, split, tuple(names.values()), labels, listing, problems)
    if not any(splits.values()):
        raise VertebraError(f"{path} has no image with a label map. {problems[0] if problems else ''}")
    classes = tuple(names.values())
    return Catalogue(str(path), "coco_panoptic", classes, splits, [], problems, FIELDS, tuple(names))


def _files(path: Path) -> list[Path]:
    """The JSON files in `annotations/`, or else in the folder itself."""
    for folder in (path / "annotations", path):
        if files := [file for file in sorted(folder.glob("*.json")) if file.is_file() and coco.is_panoptic(file)]:
            return files
    return []


def _categories(path: Path, content: Any) -> dict[int, str]:
    """Names by id, in the order of the file."""
    if missing := coco.missing_list(content):
        raise VertebraError(
            f"{path} is not a COCO panoptic file: it has no {missing} (images, annotations and categories)."
        )
    coco.categories_of(path, content)
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    if not 1 <= len(names) <= MAX_CLASSES:
        raise VertebraError(f"{path} has {len(names):,} categories; label maps have 1 to {MAX_CLASSES} classes.")
    check_class_names(list(names.values()), path)
    return names


def _samples(
    file: Path,
    content: dict[str, Any],
    split: str,
    classes: tuple[str, ...],
    labels: dict[int, int],
    listing: Listing,
    problems: list[str],
) -> list[Sample]:
    """One sample for each image that is there with its PNG, in the file's order."""
    images = coco.images_of(file, content)
    maps: dict[int, tuple[str, LabelTable]] = {}
    for place, annotation in enumerate(content["annotations"]):
        where = f"{file}, annotations[{place}]"
        number = _get(where, annotation, "image_id", int)
        if number not in images or number in maps:
            wrong = "it is annotated twice" if number in maps else "there is none in the file"
            raise VertebraError(f"{where}: its image is {shown(number)}, but {wrong}.")
        name = _get(where, annotation, "file_name", str)
        maps[number] = name.replace("\\", "/"), _table(where, annotation, classes, labels)
    folder = coco.image_folder(file, split, [entry["file_name"] for entry in images.values()], listing, False)
    map_folder = _map_folder(file, [name for name, _ in maps.values()], listing)
    samples = []
    for number, entry in images.items():
        where, image = f"{file}, image {number}", folder / entry["file_name"]
        label_map = map_folder / maps[number][0] if number in maps else None
        if str(image) not in listing:
            problems.append(f"{where} is skipped: {image} is not there.")
        elif label_map is None:
            problems.append(f"{where} is skipped: it has no annotation.")
        elif str(label_map) not in listing:
            problems.append(f"{where} is skipped: its label map {label_map} is not there.")
        else:
            target = Target(path=str(image), id=number)
            samples.append(Sample(image, target, label_map=PanopticMap(label_map, maps[number][1])))
    return samples


def _table(where: str, annotation: dict[str, Any], classes: tuple[str, ...], labels: dict[int, int]) -> LabelTable:
    """The class of each segment, by the colour that is its id."""
    colours = {(0, 0, 0): IGNORED}
    for place, segment in enumerate(_get(where, annotation, "segments_info", list)):
        at = f"{where}, segments_info[{place}]"
        number, category = _get(at, segment, "id", int), _get(at, segment, "category_id", int)
        colour = (number & 255, number >> 8 & 255, number >> 16)
        crowd = segment.get("iscrowd")
        if not 0 < number < 1 << 24:
            raise VertebraError(f"{at}: its id is {shown(number)}, 1 to 16,777,215 is expected.")
        if colour in colours:
            raise VertebraError(f"{at}: another segment of the image has the id {number} as well.")
        if category not in labels:
            raise VertebraError(f"{at}: there is no category {shown(category)} in the file.")
        if not isinstance(crowd, int | str | None) or crowd not in CROWD:
            raise VertebraError(f"{at}: its iscrowd is {shown(crowd)}, 0 or 1 is expected.")
        colours[colour] = IGNORED if CROWD[crowd] else labels[category]
    return LabelTable(classes, colours=colours)


def _map_folder(file: Path, names: list[str], listing: Listing) -> Path:
    """The folder where most of the PNG files are."""
    top = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    beside = file.with_suffix("")
    places = [beside, top / file.stem, beside / file.stem]  # as COCO has it, as Detectron2 does, unpacked into a folder
    counts = [sum(os.path.join(place, name) in listing for name in names) for place in places]
    if names and not any(counts):
        raise VertebraError(
            f"{file}: none of its {len(names)} label maps is there, {names[0]} for one; they were looked for in "
            f"{places[0]} and {places[1]}."
        )
    return places[counts.index(max(counts))]


def _get(where: str, entry: Any, key: str, kind: type) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        wrong = f"its {key} is {shown(value)}, {TYPES[kind]} is expected" if value is not None else f"it has no {key!r}"
        raise VertebraError(f"{where}: {wrong}.")
    return value
