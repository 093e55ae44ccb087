"""COCO's JSON: boxes, masks, crowd regions and keypoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertebra.data import segments
from vertebra.data.annotations import (
    MAX_NAME,
    Annotation,
    Gatherer,
    Listing,
    check_flip_indices,
    check_keypoint_count,
    mirror_indices,
    named_keypoints,
    split_folders,
    split_of,
    unnamed_keypoints,
)
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, shown
from vertebra.files import MAX_NUMBER, is_number, read_bytes, read_json
from vertebra.images import UnreadableImage, image_size
from vertebra.structures import KeypointSchema

PRIORITY = 30
FIELDS = frozenset({"boxes", "labels", "masks", "keypoints", "crowd", "areas"})
NEEDS = frozenset({"boxes"})
TITLE = "COCO JSON"

EXPORT = "_annotations.coco.json"
"""The file that some tools put among the images of each split."""
OTHERS = ("captions", "image_info", "panoptic", "stuff")
"""Beginnings of the names of COCO's files that do not annotate objects."""
SIGMAS = (1e-4, 10)
"""Smallest and largest standard deviation of a keypoint, as a share of the object's size; COCO's are 0.025 to 0.107."""


def recognise(path: Path) -> bool:
    """Whether it is a .json file, or a folder with `annotations/*.json`, or with the folders of splits that hold a COCO
    export."""
    if path.is_file():
        return path.suffix.lower() == ".json" and not is_panoptic(path) and not is_captions(path, by_content=True)
    files = (file for file in (path / "annotations").glob("*.json") if not is_captions(file))
    return path.is_dir() and (any(not is_panoptic(file) for file in files) or bool(_exports(path)))


def is_panoptic(file: Path) -> bool:
    """Whether a JSON file is of COCO's panoptic format: by its name, or by its content if a folder has its name."""
    if file.name.startswith("panoptic"):
        return True
    return file.with_suffix("").is_dir() and b'"segments_info"' in read_bytes(file)


def is_captions(file: Path, by_content: bool = False) -> bool:
    """Whether a JSON file is of COCO's captions: by its name, or by its content if it has none of COCO's names."""
    if "captions" in file.name or not by_content or file.name.startswith(("instances", "person_keypoints")):
        return "captions" in file.name
    content = read_bytes(file)
    has = [word in content for word in (b'"images"', b'"annotations"', b'"caption"', b'"bbox"')]
    return has == [True, True, True, False]


def hint(path: Path) -> str:
    """A sentence if JSON files lie in the folder itself."""
    files = sorted(path.glob("*.json"))
    if not files:
        return ""
    return f"{path} has no annotations/ with COCO's JSON; if {files[0].name} is such, give its own path."


def read(path: Path, options: ReadOptions) -> Catalogue:
    """A COCO folder or one JSON file; no image is opened whose size the file gives.

    The images lie in `images/SPLIT/`, `SPLIT/`, `SPLIT2017/`, `images/`, a folder of it, or beside the file. A single
    file that is named after the val or test split is that split, any other is train.

    Raises:
        VertebraError: if a file is damaged or not COCO, if an id is given twice or refers to nothing, or if none
            of its images is there.
    """
    notes: list[str] = []
    files = {split_of(path.stem) or "train": _File.load(path)} if path.is_file() else _find(path, options.fields, notes)
    files = {split: files[split] for split in SPLITS if split in files}
    first = next(iter(files.values()))
    _drop_roots(files, notes)
    categories, keypoints = _merge(files, options.fields, notes)
    gatherer = Gatherer(options.fields, keypoints)
    listing = Listing()
    splits = {
        split: _samples(file, split, categories, gatherer, listing, options.missing_ok) for split, file in files.items()
    }
    names = tuple(first.categories[number] for number in categories)
    return gatherer.catalogue(path, "coco", names, splits, notes, tuple(categories))


@dataclass
class _File:
    """One JSON file of valid form: lists of mappings, ids that are whole numbers and given once."""

    path: Path
    categories: dict[int, str]
    """Names by id, in the order of the ids."""
    entries: list[dict[str, Any]]
    """The categories as in the file."""
    images: dict[int, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    """The annotations of each image, by its id."""

    @staticmethod
    def load(path: Path) -> _File:
        return _File.of(path, read_json(path))

    @staticmethod
    def of(path: Path, content: Any) -> _File:
        if missing := missing_list(content):
            raise VertebraError(
                f"{path} is not a COCO annotation file: it has no {missing} (a mapping of images, annotations and "
                "categories is expected)."
            )
        entries, images = categories_of(path, content), images_of(path, content)
        if not entries:
            raise VertebraError(f"{path} has no categories.")
        categories = {entry["id"]: entry["name"] for entry in entries}
        for entry in images.values():
            for side in ("width", "height"):
                if side in entry and not 1 <= _field(path, "image", entry, side, int) <= MAX_NUMBER:
                    raise VertebraError(f"{path}, image {entry['id']}: its {side} is {entry[side]}.")
        annotations: dict[int, list[dict[str, Any]]] = {}
        for entry in _numbered(path, "annotation", content["annotations"]):
            for key, kind, known in (("image_id", "image", images), ("category_id", "category", categories)):
                if _field(path, "annotation", entry, key, int) not in known:
                    raise VertebraError(
                        f"{path}, annotation {entry['id']}: there is no {kind} {entry[key]} in the file."
                    )
            if "bbox" not in entry:
                raise VertebraError(f"{path}, annotation {entry['id']}: it has no 'bbox'.")
            annotations.setdefault(entry["image_id"], []).append(entry)
        return _File(path, categories, entries, images, annotations)


def categories_of(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories of a file in the order of their ids, after a check of ids and names."""
    entries = sorted(_numbered(path, "category", content["categories"]), key=lambda entry: entry["id"])
    for entry in entries:
        name = _field(path, "category", entry, "name", str)
        if not name.strip() or len(name) > MAX_NAME:
            raise VertebraError(f"{path}, category {entry['id']}: its name is {shown(name)}.")
    return entries


def images_of(path: Path, content: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The images of a file by their ids, after a check of ids and file names, which get `/` between folders."""
    images = {entry["id"]: entry for entry in _numbered(path, "image", content["images"])}
    for entry in images.values():
        entry["file_name"] = _field(path, "image", entry, "file_name", str).replace("\\", "/")
    return images


def read_names(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """The file names of a file's images and the names of its categories by their ids; it needs no annotations.

    Raises:
        VertebraError: if it lacks one of the lists, or a name or id in them.
    """
    content = read_json(path)
    if missing := missing_list(content, ("images", "categories")):
        raise VertebraError(
            f"{path} is not a COCO annotation file: it has no {missing}, with file_name or name and id of each."
        )
    images = {number: entry["file_name"] for number, entry in images_of(path, content).items()}
    return images, {entry["id"]: entry["name"] for entry in categories_of(path, content)}


def missing_list(content: Any, keys: Sequence[str] = ("images", "annotations", "categories")) -> str:
    """The list that a COCO file has and this content lacks."""
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            return f"list of {key}"
    return ""


def _numbered(path: Path, kind: str, entries: Sequence[Any]) -> list[Any]:
    """The entries, after a check that each is a mapping with a unique whole number `id`."""
    seen: set[int] = set()
    plural = {"category": "categories"}.get(kind, f"{kind}s")
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int or not abs(number) < 2**63:
            wrong = "it has no 'id'" if number is None else f"its id is {shown(number)}, a whole number is expected"
            raise VertebraError(f"{path}, {plural}[{place}]: {wrong}.")
        if number in seen:
            raise VertebraError(f"{path}: the id {number} is given to two {plural}; it must be unique.")
        seen.add(number)
    return list(entries)


def _field(path: Path, kind: str, entry: dict[str, Any], key: str, of: type) -> Any:
    value = entry.get(key)
    if type(value) is not of:
        wrong = f"its {key} is {shown(value)}, {'text' if of is str else 'a whole number'} is expected"
        raise VertebraError(f"{path}, {kind} {entry['id']}: {wrong if value is not None else f'it has no {key!r}'}.")
    return value


def _exports(path: Path) -> dict[str, Path]:
    return split_folders(path, lambda folder: (folder / EXPORT).is_file())


def _find(path: Path, fields: frozenset[str] | None, notes: list[str]) -> dict[str, _File]:
    """The annotation file of each split in a folder."""
    if exports := _exports(path):
        return {split: _File.load(folder / EXPORT) for split, folder in exports.items()}
    groups: dict[str, list[Path]] = {}
    for file in sorted((path / "annotations").glob("*.json")):
        groups.setdefault(split_of(file.stem), []).append(file)
    loose = groups.pop("", [])
    if groups:
        if loose:
            notes.append(f"ignored, of no split by their names: {', '.join(file.name for file in loose)}")
    else:
        groups["train"] = loose
    files = {}
    for split, candidates in groups.items():
        if chosen := _choose(path, split, candidates, fields, notes):
            files[split] = chosen
    if not files:
        raise VertebraError(f"{path / 'annotations'} has no JSON file of objects (images, annotations, categories).")
    return files


def _choose(path: Path, split: str, files: list[Path], fields: frozenset[str] | None, notes: list[str]) -> _File | None:
    """The one file of a split that has the fields that are needed: by its name, or else because it alone is COCO."""
    files = [file for file in files if not file.name.startswith(OTHERS)]
    prefix = "person_keypoints" if fields is not None and "keypoints" in fields else "instances"
    preferred = [file for file in files if file.name.startswith(prefix)] or files
    if fields is None and (rest := [file.name for file in files if file not in preferred]):
        notes.append(f"ignored beside {preferred[0].name}: {', '.join(rest)}; give its own path to see what it has")
    files = preferred
    if len(files) < 2:
        return _File.load(files[0]) if files else None
    contents = {file: read_json(file) for file in files}
    if other := [file.name for file in files if missing_list(contents[file])]:
        notes.append(f"ignored, not COCO's annotations: {', '.join(other)}")
    files = [file for file in files if file.name not in other]
    if len(files) > 1:
        raise VertebraError(
            f"{path / 'annotations'} has {len(files)} files of the {split} split "
            f"({', '.join(file.name for file in files)}); "
            "give the path of one of them."
        )
    return _File.of(files[0], contents[files[0]]) if files else None


def _drop_roots(files: dict[str, _File], notes: list[str]) -> None:
    """Removes the root that some tools put above their categories, of which there is no object.

    Raises:
        VertebraError: if two categories of a file have one name after that.
    """
    used = {
        entry["category_id"] for file in files.values() for entries in file.annotations.values() for entry in entries
    }
    roots: dict[str, None] = {}
    for file in files.values():
        parents = {parent for other in file.entries if isinstance(parent := other.get("supercategory"), str)}
        dropped = [
            entry
            for entry in file.entries
            if entry["id"] not in used and entry["name"] in parents and entry.get("supercategory") in (None, "", "none")
        ]
        if len(dropped) < len(file.entries):
            for entry in dropped:
                del file.categories[entry["id"]]
                roots[f"{entry['id']} ({shown(entry['name'])})"] = None
            file.entries = [entry for entry in file.entries if entry["id"] in file.categories]
        seen: set[str] = set()
        for number, name in file.categories.items():
            if name in seen:
                where = f"{file.path}, category {number}"
                raise VertebraError(f"{where}: another category is called {shown(name)} as well.")
            seen.add(name)
    notes += [f"category {root} is ignored: it is above others and has no object" for root in roots]


def _merge(
    files: dict[str, _File], fields: frozenset[str] | None, notes: list[str]
) -> tuple[list[int], KeypointSchema | None]:
    """The category ids in order and the keypoints, which no split may contradict."""
    first, *others = files.values()
    for other in others:
        for number, name in other.categories.items():
            if first.categories.get(number) != name:
                raise VertebraError(
                    f"{other.path}, category {number}: {shown(name)} is not so in {first.path}, "
                    f"where {number} is {shown(first.categories.get(number, 'no category'))}."
                )
    categories = list(first.categories)
    schemas = [schema for file in files.values() for schema in _keypoint_schemas(file, notes)]
    if not schemas:
        return categories, None
    if len({schema.names for schema in schemas}) > 1:
        if fields is not None and "keypoints" in fields:
            raise VertebraError(
                f"{first.path}: its categories have different keypoints, but a model has the same keypoints for all "
                "categories."
            )
        notes.append("keypoints are ignored, because its categories have different ones")
        return categories, None
    # What one category states and another does not, such as its flip_idx, is taken from where it is stated.
    merged: dict[str, Any] = {}
    for name, unset in (("sigmas", ()), ("skeleton", ()), ("flip_indices", mirror_indices(schemas[0].names))):
        stated = [value for schema in schemas if (value := getattr(schema, name)) != unset]
        if len(set(stated)) > 1:
            word = "flip_idx" if name == "flip_indices" else name
            notes.append(f"{word} differ from category to category, or split to split: {stated[0]} are used for all")
        merged[name] = stated[0] if stated else unset
    return categories, replace(schemas[0], **merged)


def _keypoint_schemas(file: _File, notes: list[str]) -> list[KeypointSchema]:
    """The keypoints of a file: by its categories, or else by how many numbers its annotations have."""
    schemas = [_schema(file, entry, notes) for entry in file.entries if entry.get("keypoints")]
    if schemas:
        return schemas
    lists = (entry.get("keypoints") for entries in file.annotations.values() for entry in entries)
    count = next((len(keypoints) // 3 for keypoints in lists if isinstance(keypoints, list) and keypoints), 0)
    if not count:
        return []
    check_keypoint_count(count, str(file.path))
    return [unnamed_keypoints(count, None, notes)]


def _schema(file: _File, entry: dict[str, Any], notes: list[str]) -> KeypointSchema:
    """The keypoints of one category."""
    names, where = entry["keypoints"], f"{file.path}, category {entry['id']}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise VertebraError(f"{where}: its keypoints are {shown(names)}, a list of names is expected.")
    known = named_keypoints(names, where)
    skeleton = known.skeleton
    if entry.get("skeleton"):
        pairs = entry["skeleton"]
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and set(map(type, pair)) == {int} for pair in pairs
        ):
            raise VertebraError(f"{where}: its skeleton is {shown(pairs)}, not a list of pairs of keypoints' numbers.")
        skeleton = tuple((a - 1, b - 1) for a, b in pairs)
        if any(not 0 <= end < len(names) for bone in skeleton for end in bone):
            notes.append(f"{where}: its skeleton is ignored, it joins keypoints other than 1 to {len(names)}")
            skeleton = ()
    sigmas = known.sigmas
    if entry.get("sigmas"):
        sigmas = entry["sigmas"]
        valid = isinstance(sigmas, list) and all(is_number(sigma, *SIGMAS) for sigma in sigmas)
        if not valid or len(sigmas) != len(names):
            low, high = SIGMAS
            raise VertebraError(
                f"{where}: its sigmas are {shown(sigmas)}; {len(names)} numbers from {low:g} to {high:g} are expected, "
                "one per keypoint."
            )
    flip_indices = mirror_indices(names)
    if entry.get("flip_idx"):  # not COCO's own key, but YOLO's
        flip_indices = check_flip_indices(entry["flip_idx"], len(names), where)
    return KeypointSchema(tuple(names), skeleton, flip_indices, tuple(sigmas))


def _samples(
    file: _File, split: str, categories: list[int], gatherer: Gatherer, listing: Listing, missing_ok: bool
) -> list[Sample]:
    """One sample for each image that is there, in the file's order."""
    index = {number: i for i, number in enumerate(categories)}
    names = [entry["file_name"] for entry in file.images.values()]
    folder = image_folder(file.path, split, names, listing, missing_ok)
    samples = []
    for number, entry in file.images.items():
        entries = file.annotations.get(number, [])
        image = folder / entry["file_name"]
        where = f"{file.path}, image {number}"
        size = (entry.get("height", 0), entry.get("width", 0))
        if str(image) not in listing and not (missing_ok and all(size)):
            also = f" with its {len(entries)} annotations" if entries else ""
            gatherer.problems.append(f"{where} is skipped{also}: {image} is not there.")
            continue
        if not all(size):
            try:
                size = image_size(image)
            except UnreadableImage as error:
                gatherer.problems.append(f"{where} is skipped: {error}")
                continue
        samples.append(gatherer.sample(image, size, _annotations(file.path, entries, index), number))
    return samples


def _annotations(path: Path, entries: list[dict[str, Any]], index: dict[int, int]) -> Iterator[Annotation]:
    for entry in entries:
        box = entry["bbox"]
        if isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float}:
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        yield Annotation(
            f"{path}, annotation {entry['id']}",
            index[entry["category_id"]],
            box,
            entry.get("segmentation"),
            entry.get("keypoints"),
            entry.get("iscrowd"),
            entry.get("area"),
            entry["id"],
        )


def image_folder(file: Path, split: str, names: list[str], listing: Listing, missing_ok: bool) -> Path:
    """The folder that the file names of the images are relative to: where most of them are."""
    top = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    words = [word for word in re.findall(r"[A-Za-z]+\d*", file.stem) if split_of(word) == split]
    words += [word.lower() for word in words]
    words += [f"{word}{year}" for word in SPLITS[split] for year in ("", "2017", "2014")]
    places = [top / "images" / word for word in words] + [top / word for word in words]
    places = list(dict.fromkeys([*places, top / "images", top, file.parent]))
    if not names:
        return top

    def candidates() -> Iterator[Path]:
        yield from places
        if (top / "images").is_dir():  # CVAT calls a split as its user does
            yield from sorted(below for below in (top / "images").iterdir() if below.is_dir() and below not in places)

    best, most = top, 0
    for place in candidates():
        count = sum(os.path.join(place, name) in listing for name in names)
        if count > most:
            best, most = place, count
        if most == len(names):
            break
    if not most and not missing_ok:
        raise VertebraError(
            f"{file}: none of its {len(names)} images is there, {names[0]} for one; they were looked for in "
            f"{top / 'images' / split}, {top / split}, {top / 'images'} and {file.parent}."
        )
    return best


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `annotations/instances_SPLIT.json` and `images/SPLIT/`; polygons and RLE stay as they are.

    Returns:
        What COCO cannot hold: nothing.
    """
    ids = catalogue.category_ids or tuple(range(1, len(catalogue.classes) + 1))
    categories = [
        {"id": number, "name": name} | category_keypoints(catalogue.keypoints)
        for number, name in zip(ids, catalogue.classes, strict=True)
    ]
    for split, samples in catalogue.splits.items():
        copies = Copies(folder / "images" / split)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        has_image_ids = all(sample.target.id is not None for sample in samples)
        # Other formats may number the objects of each image.
        numbers = [number for sample in samples for number in sample.annotation_ids]
        has_ids = len(set(numbers)) == sum(len(_rows(sample.target.boxes)) for sample in samples) == len(numbers)
        for place, sample in enumerate(samples, 1):
            target = sample.target
            assert target.size is not None
            number = target.id if has_image_ids else place
            name = copies.add(sample.image).name
            images.append({"id": number, "file_name": name, "height": target.size[0], "width": target.size[1]})
            for i in range(len(_rows(target.boxes))):
                annotation = {
                    "id": sample.annotation_ids[i] if has_ids else len(annotations) + 1,
                    "image_id": number,
                }
                annotations.append(annotation | _annotation(sample, i, ids))
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return []


def _annotation(sample: Sample, i: int, category_ids: tuple[int, ...]) -> dict[str, Any]:
    """COCO's annotation of instance `i`, without its ids."""
    target = sample.target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.areas is not None
    x1, y1, x2, y2 = target.boxes[i].tolist()
    annotation: dict[str, Any] = {
        "category_id": category_ids[int(target.labels[i])],
        "bbox": [_short(value) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": _short(float(target.areas[i])),
        "iscrowd": int(target.crowd is not None and target.crowd[i]),
    }
    if sample.segments:
        assert target.size is not None
        segment = sample.segments[i]
        if not isinstance(segment, dict | list):
            segment = segments.encode(segment, target.size, target.path)
        annotation["segmentation"] = segment
    if target.keypoints is not None:
        keypoints = target.keypoints[i].tolist()
        annotation["keypoints"] = [_short(value) for keypoint in keypoints for value in keypoint]
        annotation["num_keypoints"] = sum(keypoint[2] > 0 for keypoint in keypoints)
    return annotation


def _rows(values: Any) -> list[Any]:
    return [] if values is None else values.tolist()


def _short(value: float) -> float:
    """A 32-bit number to a thousandth, whole if it is: 389.84 and not 389.8399963378906."""
    value = round(value, 3)
    return int(value) if value == int(value) else value


def category_keypoints(schema: KeypointSchema | None) -> dict[str, Any]:
    """The keys of a category that describe its keypoints."""
    if schema is None:
        return {}
    category: dict[str, Any] = {"keypoints": list(schema.names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in schema.skeleton]
    if schema.sigmas:
        category["sigmas"] = schema.sigmas
    if schema.flip_indices and schema.flip_indices != mirror_indices(schema.names):
        category["flip_idx"] = schema.flip_indices  # cannot be derived from the names
    return category
