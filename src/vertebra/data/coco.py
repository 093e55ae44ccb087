"""COCO's JSON: boxes, masks, crowd regions and keypoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertebra import pictures
from vertebra.data import segments
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.instances import (
    Annotation,
    Gatherer,
    Listing,
    mirrored,
    named_points,
    split_folders,
    split_of,
    swapped_points,
    unnamed_points,
)
from vertebra.errors import VertebraError
from vertebra.structures import COCO_PERSON, Points

EXPORT = "_annotations.coco.json"
"""The file that some tools put among the pictures of each split."""
OTHERS = ("captions", "image_info", "panoptic", "stuff")
"""Beginnings of the names of files that lie beside COCO's objects and tell of other things."""


def recognise(path: Path) -> bool:
    """Whether a folder holds `annotations/*.json`, or a COCO export in the folder of each split."""
    return any((path / "annotations").glob("*.json")) or bool(_exports(path))


def alone(path: Path) -> Path | None:
    """The one JSON file that lies in a folder itself, if it looks like COCO's."""
    found = [file for file in sorted(path.glob("*.json")) if not file.name.startswith(".")]
    if len(found) != 1:
        return None
    content = found[0].read_bytes()
    return found[0] if all(word in content for word in (b'"images"', b'"annotations"', b'"categories"')) else None


def read(path: Path, want: str | None, *, missing_ok: bool = False) -> Catalogue:
    """A COCO folder or one JSON file; no picture is opened whose size the file tells.

    The pictures lie in `images/SPLIT/`, `SPLIT/`, `SPLIT2017/`, `images/`, a folder of it, or beside the file. A single
    file that is named after the val or test split is that split, any other is train.

    Args:
        path: the folder or file.
        want: as for `open_data`.
        missing_ok: whether pictures may be missing whose size the file tells.

    Raises:
        VertebraError: if a file is damaged or not COCO, if numbers in it are given twice or lead nowhere, or if none
            of its pictures is there.
    """
    notes: list[str] = []
    files = {split_of(path.stem) or "train": _File.load(path)} if path.is_file() else _find(path, want, notes)
    files = {split: files[split] for split in SPLITS if split in files}
    first = next(iter(files.values()))
    _drop_roots(files, notes)
    categories, points = _agreed(files, want, notes)
    gatherer = Gatherer(want, points)
    listing = Listing()
    splits = {split: _samples(file, split, categories, gatherer, listing, missing_ok) for split, file in files.items()}
    names = tuple(first.categories[number] for number in categories)
    return gatherer.catalogue(path, "coco", names, splits, notes, tuple(categories))


@dataclass
class _File:
    """One JSON file whose form is right: lists of mappings, numbers that are whole and given once."""

    path: Path
    categories: dict[int, str]
    """Names by id, in the order of the ids."""
    entries: list[dict[str, Any]]
    """The categories as they stand in the file."""
    images: dict[int, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    """Of each image, by its id."""

    @staticmethod
    def load(path: Path) -> _File:
        return _File.of(path, _parsed(path))

    @staticmethod
    def of(path: Path, content: Any) -> _File:
        if missing := _missing(content):
            raise VertebraError(
                f"{path} is not a COCO annotation file: it has no {missing} (a mapping of images, annotations and "
                "categories is expected)."
            )
        entries = sorted(_numbered(path, "category", content["categories"]), key=lambda entry: entry["id"])
        categories: dict[int, str] = {}
        for entry in entries:
            categories[entry["id"]] = _field(path, "category", entry, "name", str)
        if not categories:
            raise VertebraError(f"{path} has no categories.")
        images = {entry["id"]: entry for entry in _numbered(path, "image", content["images"])}
        for entry in images.values():
            entry["file_name"] = _field(path, "image", entry, "file_name", str).replace("\\", "/")
            for side in ("width", "height"):
                if side in entry and _field(path, "image", entry, side, int) < 1:
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


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise VertebraError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg} at character {error.pos} of {len(error.doc)}); "
            "the file may be cut short."
        ) from error
    except (ValueError, RecursionError) as error:  # bytes of no encoding, brackets without end
        raise VertebraError(f"{path} is not valid JSON ({error}).") from error


def _missing(content: Any) -> str:
    """What a COCO file has and this content has not."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            return f"list of {key}"
    return ""


def _numbered(path: Path, kind: str, entries: Sequence[Any]) -> list[Any]:
    """The entries, each a mapping with a whole number `id` of its own."""
    seen: set[int] = set()
    plural = {"category": "categories"}.get(kind, f"{kind}s")
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int:
            wrong = "it has no 'id'" if number is None else f"its id is {number!r}, a whole number is expected"
            raise VertebraError(f"{path}, {plural}[{place}]: {wrong}.")
        if number in seen:
            raise VertebraError(f"{path}: the id {number} is given to two {plural}; every one needs its own.")
        seen.add(number)
    return list(entries)


def _field(path: Path, kind: str, entry: dict[str, Any], key: str, of: type) -> Any:
    value = entry.get(key)
    if type(value) is not of:
        wrong = f"its {key} is {value!r}, {'text' if of is str else 'a whole number'} is expected"
        raise VertebraError(f"{path}, {kind} {entry['id']}: {wrong if key in entry else f'it has no {key!r}'}.")
    return value


def _exports(path: Path) -> dict[str, Path]:
    return split_folders(path, lambda folder: (folder / EXPORT).is_file())


def _find(path: Path, want: str | None, notes: list[str]) -> dict[str, _File]:
    """The annotation file of each split in a folder."""
    if exports := _exports(path):
        return {split: _File.load(folder / EXPORT) for split, folder in exports.items()}
    groups: dict[str, list[Path]] = {}
    for file in sorted((path / "annotations").glob("*.json")):
        groups.setdefault(split_of(file.stem), []).append(file)
    loose = groups.pop("", [])
    if groups:
        if loose:
            notes.append(f"passed over, of no split by their names: {', '.join(file.name for file in loose)}")
    else:
        groups["train"] = loose
    files = {}
    for split, found in groups.items():
        if chosen := _choose(path, split, found, want, notes):
            files[split] = chosen
    if not files:
        raise VertebraError(f"{path / 'annotations'} has no JSON file of objects (images, annotations, categories).")
    return files


def _choose(path: Path, split: str, files: list[Path], want: str | None, notes: list[str]) -> _File | None:
    """The one file of a split that tells of what is wanted: by its name, or else by being COCO at all."""
    files = [file for file in files if not file.name.startswith(OTHERS)]
    beginning = "person_keypoints" if want == "keypoints" else "instances"
    meant = [file for file in files if file.name.startswith(beginning)] or files
    if want is None and (rest := [file.name for file in files if file not in meant]):
        notes.append(f"passed over beside {meant[0].name}: {', '.join(rest)}; give its own path to see what it has")
    files = meant
    if len(files) < 2:
        return _File.load(files[0]) if files else None
    contents = {file: _parsed(file) for file in files}
    if other := [file.name for file in files if _missing(contents[file])]:
        notes.append(f"passed over, not COCO's annotations: {', '.join(other)}")
    files = [file for file in files if file.name not in other]
    if len(files) > 1:
        raise VertebraError(
            f"{path / 'annotations'} has {len(files)} files of the {split} split "
            f"({', '.join(file.name for file in files)}); "
            "give the path of the one that is meant."
        )
    return _File.of(files[0], contents[files[0]]) if files else None


def _drop_roots(files: dict[str, _File], notes: list[str]) -> None:
    """Leaves out the root that some tools put above their categories, which no object is of.

    Raises:
        VertebraError: if two categories of a file have one name after that.
    """
    used = {entry["category_id"] for file in files.values() for own in file.annotations.values() for entry in own}
    for file in files.values():
        above = [other.get("supercategory") for other in file.entries]
        for entry in [e for e in file.entries if e["id"] not in used and e.get("supercategory") in (None, "", "none")]:
            if entry["name"] in above and len(file.entries) > 1:
                file.entries.remove(entry)
                del file.categories[entry["id"]]
                note = f"category {entry['id']} ({entry['name']!r}) is left out: it is above others and has no object"
                if note not in notes:
                    notes.append(note)
        seen: set[str] = set()
        for number, name in file.categories.items():
            if name in seen:
                raise VertebraError(f"{file.path}, category {number}: another category is called {name!r} as well.")
            seen.add(name)


def _agreed(files: dict[str, _File], want: str | None, notes: list[str]) -> tuple[list[int], Points | None]:
    """The category ids in order and the keypoints, which no split may contradict."""
    first, *others = files.values()
    for other in others:
        for number, name in other.categories.items():
            if first.categories.get(number) != name:
                raise VertebraError(
                    f"{other.path}, category {number}: {name!r} is not so in {first.path}, "
                    f"where {number} is {first.categories.get(number, 'no category')!r}."
                )
    found = {split: _points(file, notes) for split, file in files.items()}
    kinds = {kind for own in found.values() for kind in own}
    if len({kind.names for kind in kinds}) > 1:
        if want == "keypoints":
            raise VertebraError(
                f"{first.path}: its categories have different keypoints, but they are learned together and must be "
                "the same for all."
            )
        notes.append("keypoints are passed over, because its categories have different ones")
        return list(first.categories), None
    every = [kind for own in found.values() for kind in own]
    if not every:
        return list(first.categories), None
    # What one category tells and another does not, such as its flip_idx, is taken from where it is told.
    chosen: dict[str, Any] = {}
    for name, silent in (("sigmas", ()), ("skeleton", ()), ("flip", mirrored(every[0].names))):
        told = [value for kind in every if (value := getattr(kind, name)) != silent]
        if len(set(told)) > 1:
            word = "flip_idx" if name == "flip" else name
            notes.append(f"{word} differ from category to category, or split to split: {told[0]} are used for all")
        chosen[name] = told[0] if told else silent
    return list(first.categories), replace(every[0], **chosen)


def _points(file: _File, notes: list[str]) -> list[Points]:
    """The kinds of keypoints in a file: by its categories, or else by how many numbers its annotations have."""
    kinds: list[Points] = []
    for entry in file.entries:
        names = entry.get("keypoints")
        if not names:
            continue
        where = f"{file.path}, category {entry['id']}"
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise VertebraError(f"{where}: its keypoints are {names!r}, a list of names is expected.")
        known = named_points(names, COCO_PERSON, where)
        skeleton = known.skeleton
        if entry.get("skeleton"):
            try:
                skeleton = tuple((int(a) - 1, int(b) - 1) for a, b in entry["skeleton"])
            except (TypeError, ValueError) as error:
                raise VertebraError(f"{where}: its skeleton is not a list of pairs of keypoints.") from error
            if any(not 0 <= end < len(names) for bone in skeleton for end in bone):
                notes.append(f"{where}: its skeleton is passed over, it joins keypoints other than 1 to {len(names)}")
                skeleton = ()
        sigmas = known.sigmas
        if entry.get("sigmas"):
            sigmas = entry["sigmas"]
            if not isinstance(sigmas, list) or len(sigmas) != len(names) or not all(_is_positive(s) for s in sigmas):
                raise VertebraError(f"{where}: its sigmas are not {len(names)} numbers above 0, one per keypoint.")
        flip = mirrored(names)
        if entry.get("flip_idx"):  # not COCO's own word, but YOLO's
            flip = swapped_points(entry["flip_idx"], len(names), where)
        kinds.append(Points(tuple(names), skeleton, flip, tuple(sigmas)))
    if kinds:
        return kinds
    lists = (entry.get("keypoints") for own in file.annotations.values() for entry in own)
    count = next((len(points) // 3 for points in lists if isinstance(points, list) and points), 0)
    if not count:
        return []
    return [unnamed_points(count, None, notes)]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _samples(
    file: _File, split: str, categories: list[int], gatherer: Gatherer, listing: Listing, missing_ok: bool
) -> list[Sample]:
    """One sample for each picture that is there, in the file's order."""
    index = {number: i for i, number in enumerate(categories)}
    names = [entry["file_name"] for entry in file.images.values()]
    base = _base(file.path, split, names, listing, missing_ok)
    samples = []
    for number, entry in file.images.items():
        own = file.annotations.get(number, [])
        picture = base / entry["file_name"]
        where = f"{file.path}, image {number}"
        size = (entry.get("height", 0), entry.get("width", 0))
        if str(picture) not in listing and not (missing_ok and all(size)):
            also = f" with its {len(own)} annotations" if own else ""
            gatherer.broken.append(f"{where} is left out{also}: {picture} is not there.")
            continue
        if not all(size):
            try:
                size = pictures.measure(picture)
            except pictures.BrokenPicture as error:
                gatherer.broken.append(f"{where} is left out: {error}")
                continue
        samples.append(gatherer.sample(picture, size, _annotations(file.path, own, index), number))
    return samples


def _annotations(path: Path, entries: list[dict[str, Any]], index: dict[int, int]) -> Iterator[Annotation]:
    for entry in entries:
        box = entry["bbox"]
        if isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        yield Annotation(
            f"{path}, annotation {entry['id']}",
            index[entry["category_id"]],
            box,
            entry.get("segmentation"),
            entry.get("keypoints"),
            entry.get("iscrowd") in (1, True, "1", "true"),
            entry.get("area"),
            entry["id"],
        )


def _base(file: Path, split: str, names: list[str], listing: Listing, missing_ok: bool) -> Path:
    """The folder that the file names of the pictures start from: where most of them are."""
    top = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    own = [word for word in re.findall(r"[A-Za-z]+\d*", file.stem) if split_of(word) == split]
    own += [word.lower() for word in own]
    words = dict.fromkeys([*own, *(f"{word}{year}" for word in SPLITS[split] for year in ("", "2017", "2014"))])
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
        there = sum(os.path.join(place, name) in listing for name in names)
        if there > most:
            best, most = place, there
        if most == len(names):
            break
    if not most and not missing_ok:
        raise VertebraError(
            f"{file}: none of its {len(names)} pictures is there, {names[0]} for one; they were looked for in "
            f"{top / 'images' / split}, {top / split}, {top / 'images'} and {file.parent}."
        )
    return best


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `annotations/instances_SPLIT.json` and `images/SPLIT/`; masks stay as they are, polygons or run lengths.

    Returns:
        What COCO cannot hold: nothing.
    """
    ids = catalogue.category_ids or tuple(range(1, len(catalogue.classes) + 1))
    categories = [
        {"id": number, "name": name} | _as_category(catalogue.points)
        for number, name in zip(ids, catalogue.classes, strict=True)
    ]
    for split, samples in catalogue.splits.items():
        copies = Copies(folder / "images" / split)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        numbered = all(s.target.id is not None for s in samples)
        own = [number for sample in samples for number in sample.numbers]  # which other formats may give per picture
        counted = len(set(own)) == sum(len(_rows(s.target.boxes)) for s in samples) == len(own)
        for place, sample in enumerate(samples, 1):
            target = sample.target
            assert target.labels is not None
            assert target.size is not None
            number = target.id if numbered else place
            name = copies.add(sample.picture).name
            images.append({"id": number, "file_name": name, "height": target.size[0], "width": target.size[1]})
            crowd, points = _rows(target.crowd), _rows(target.keypoints)
            for i, (box, label) in enumerate(zip(_rows(target.boxes), target.labels.tolist(), strict=True)):
                annotation = {
                    "id": sample.numbers[i] if counted else len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[label],
                    "bbox": [_short(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                    "area": _short(_rows(target.areas)[i]),
                    "iscrowd": int(crowd[i]) if crowd else 0,
                }
                if sample.segments:
                    segment = sample.segments[i]
                    plain = isinstance(segment, dict | list)
                    annotation["segmentation"] = (
                        segment if plain else segments.encode(segments.decode(segment, target.size, target.path))
                    )
                if points:
                    annotation["keypoints"] = [_short(v) for point in points[i] for v in point]
                    annotation["num_keypoints"] = sum(point[2] > 0 for point in points[i])
                annotations.append(annotation)
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return []


def _rows(values: Any) -> list[Any]:
    return [] if values is None else values.tolist()


def _short(value: float) -> float:
    """A 32-bit number to a thousandth, whole if it is: 389.84 and not 389.8399963378906."""
    value = round(value, 3)
    return int(value) if value == int(value) else value


def _as_category(points: Points | None) -> dict[str, Any]:
    if points is None:
        return {}
    category: dict[str, Any] = {"keypoints": list(points.names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in points.skeleton]
    if points.sigmas:
        category["sigmas"] = points.sigmas
    if points.flip and points.flip != mirrored(points.names):
        category["flip_idx"] = points.flip  # the names do not tell
    return category
