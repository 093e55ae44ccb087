"""What any other tool has found, from a file in COCO's format of results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vertebra.data.catalogue import Catalogue
from vertebra.data.segments import cut, fault
from vertebra.errors import VertebraError
from vertebra.structures import Masks, Prediction, Target

FORMS = {"keypoints": ("keypoints",), "segmentation": ("mask", "boundary"), "bbox": ("box",)}
"""What an entry may hold, and what it can be judged by; what says most comes first."""


def read(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a file of results, each with `image_id`, `category_id`, `score` and the same of FORMS.

    Raises:
        VertebraError: if it cannot be read, is not such a list, or an entry lacks one of these.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise VertebraError(f"{path} cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VertebraError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, list):
        hint = ""
        if isinstance(content, dict) and "annotations" in content:
            hint = " (these are annotations: give them as --data.path)"
        raise VertebraError(
            f"{path} is no file of COCO results, which is a list of entries with image_id, category_id, score and "
            f"bbox, segmentation or keypoints{hint}."
        )
    for number, entry in enumerate(content):
        if not isinstance(entry, dict):
            raise VertebraError(f"{path}, entry {number} (counted from 0) is not an object but {_short(entry)}.")
    told = forms(content)
    for number, entry in enumerate(content):
        for key in ("image_id", "category_id", "score", *(told or ["bbox, segmentation or keypoints"])):
            if key not in entry:
                others = " as others have" if key in told else ""
                raise VertebraError(f"{path}, entry {number} (counted from 0) has no {key}{others}.")
        score = entry["score"]
        if not _finite(score):
            raise VertebraError(f"{path}, entry {number} (counted from 0): score is {_short(score)}, not a number.")
    return content


def forms(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of FORMS any of the entries has; an empty one, as of a mask without a pixel, tells nothing."""
    return [form for form in FORMS if any(entry.get(form) for entry in entries)]


def kinds(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What entries can be judged by, the most telling first; boxes if there are none."""
    return tuple(kind for form in forms(entries) or ["bbox"] for kind in FORMS[form])


def want(entries: Sequence[Mapping[str, Any]]) -> str:
    """Which truth the data has to tell, as `open_data` is asked for it."""
    return {"keypoints": "keypoints", "mask": "masks", "box": "boxes"}[kinds(entries)[0]]


def _names(path: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Which file each image_id and which class each category_id stands for, if `vertebra predict` has written so
    beside the results."""
    beside = Path(path).with_name("images.json")
    try:
        content = json.loads(beside.read_bytes())
        files = {_short(image["id"]): str(image["file_name"]) for image in content["images"]}
        return files, {_short(category["id"]): str(category["name"]) for category in content.get("categories", [])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}


class Results:
    """The entries of a file as Predictions for the pictures of a data set."""

    def __init__(
        self, path: str | Path, entries: Sequence[Mapping[str, Any]], catalogue: Catalogue, split: str
    ) -> None:
        """
        Raises:
            VertebraError: if an entry is of a picture or a category that the data does not have.
        """
        self.path = path
        self.samples = catalogue.split(split)
        self.points = catalogue.points
        self.forms = set(forms(entries)) or {"bbox"}
        categories = catalogue.category_ids or tuple(range(1, len(catalogue.classes) + 1))
        self.labels = {number: label for label, number in enumerate(categories)}
        numbers = {sample.target.id: i for i, sample in enumerate(self.samples) if sample.target.id is not None}
        if not numbers:
            raise VertebraError(f"{catalogue.path} gives its pictures no numbers, which COCO results refer to.")
        self.entries: list[list[tuple[int, Mapping[str, Any]]]] = [[] for _ in self.samples]
        names, classes = _names(path)
        for number, entry in enumerate(entries):
            if name := names.get(_short(entry["image_id"])):
                index = _looked_up(numbers, entry["image_id"])
                if index is None or Path(self.samples[index].target.path).name != Path(name).name:
                    raise VertebraError(
                        f"{self._place(number)}: image_id {_short(entry['image_id'])} is {name}, as images.json beside "
                        f"it says, which the {split} split of {catalogue.path} numbers otherwise: predict with "
                        "--annotations=FILE, the data's own."
                    )
            if (index := _looked_up(numbers, entry["image_id"])) is None:
                asked = entry["image_id"]
                elsewhere = [s for s, them in catalogue.splits.items() if asked in [t.target.id for t in them]]
                raise VertebraError(
                    f"{self._place(number)}: no picture of the {split} split of {catalogue.path} has image_id "
                    f"{_short(asked)}; "
                    + (f"it is in the {elsewhere[0]} split." if elsewhere else f"there are {_range(numbers)}.")
                )
            if _looked_up(self.labels, entry["category_id"]) is None:
                raise VertebraError(
                    f"{self._place(number)}: {catalogue.path} has no category_id {_short(entry['category_id'])}; there "
                    f"are {_range(self.labels)}."
                )
            named = classes.get(_short(entry["category_id"]))
            own = catalogue.classes[self.labels[entry["category_id"]]]
            if named not in (None, own):
                raise VertebraError(
                    f"{self._place(number)}: category_id {entry['category_id']} is {named!r}, as images.json beside it "
                    f"says, but {own!r} in {catalogue.path}: predict with --annotations=FILE, the data's own."
                )
            self.entries[index].append((number, entry))

    def target(self, index: int) -> Target:
        """What is true of a picture, masks included."""
        return self.samples[index].truth(self.samples[index].size, pieces=True)

    def prediction(self, index: int) -> Prediction:
        """What was found in a picture, by falling score; equal ones as in the file. Numbers are float64, as written.

        Raises:
            VertebraError: if a box, a mask or keypoints are malformed.
        """
        rows = sorted(self.entries[index], key=lambda row: -row[1]["score"])
        target = self.samples[index].target
        boxes = keypoints = masks = None
        if "bbox" in self.forms:
            boxes = torch.tensor([self._floats(n, e, "bbox", 4) for n, e in rows], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
        if "keypoints" in self.forms:
            count = len(self.points.names) if self.points else 17
            flat = [self._floats(n, e, "keypoints", 3 * count) for n, e in rows]
            keypoints = torch.tensor(flat, dtype=torch.float64).reshape(-1, count, 3)
        if "segmentation" in self.forms:
            size = self.samples[index].size
            masks = Masks(size)
            for number, entry in rows:
                if wrong := fault(entry["segmentation"], size):
                    raise VertebraError(f"{self._place(number)}: {wrong}.")
                x, y, crop = cut(entry["segmentation"], size, self._place(number))
                masks.corners.append((x, y))
                masks.crops.append(torch.from_numpy(crop.copy()))
        return Prediction(
            boxes=boxes,
            labels=torch.tensor([self.labels[e["category_id"]] for _, e in rows], dtype=torch.int64),
            scores=torch.tensor([e["score"] for _, e in rows], dtype=torch.float64),
            masks=masks,
            keypoints=keypoints,
            size=target.size,
            id=target.id,
            path=target.path,
        )

    def _floats(self, number: int, entry: Mapping[str, Any], key: str, count: int) -> list[float]:
        values = entry[key]
        if not isinstance(values, list) or len(values) != count or not all(_finite(v) for v in values):
            raise VertebraError(f"{self._place(number)}: {key} is {_short(values)}, not a list of {count} numbers.")
        if key == "bbox" and (values[2] < 0 or values[3] < 0):
            raise VertebraError(f"{self._place(number)}: bbox is {values}, whose width or height is negative.")
        return values

    def _place(self, number: int) -> str:
        return f"{self.path}, entry {number} (counted from 0)"


def _looked_up(table: Mapping[Any, int], key: Any) -> int | None:
    return table.get(key) if isinstance(key, int | float) else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(numbers: Mapping[Any, int]) -> str:
    """All of a few numbers, else the first and the last."""
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered)) if len(ordered) <= 8 else f"from {ordered[0]} to {ordered[-1]}, with gaps"
