"""Detections of any tool, from a file of COCO results: reading and evaluating them, and writing other masks into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vertebra import kinds
from vertebra.data import reading
from vertebra.data.catalogue import Catalogue
from vertebra.data.formats.coco import read_names
from vertebra.data.reading import Source
from vertebra.data.segments import crop, fault, polygons
from vertebra.errors import VertebraError, in_range, shown
from vertebra.files import are_numbers, is_number, read_json
from vertebra.kinds.base import Kind
from vertebra.kinds.results import ImageNames, RefinedImage
from vertebra.kinds.writers import JsonList, open_text
from vertebra.metrics.evaluation import SHOWN, Evaluation
from vertebra.ops import rle
from vertebra.progress import busy, track
from vertebra.structures import Masks, Prediction, Target

T = TypeVar("T")

IOU_TYPES = {"keypoints": ("keypoints",), "segmentation": ("mask", "boundary"), "bbox": ("box",)}
"""By which IoU types each key of an entry is evaluated; the most informative first."""
MAX_PAIRS = 10**8
"""Detections times objects of an image, each of which takes eight bytes."""
TITLE = "a .json of COCO results"
KINDS = {"keypoints": "keypoints", "segmentation": "masks", "bbox": "boxes"}
"""The kind of prediction of entries, by the most informative key that they have."""


def read_results(path: str | Path) -> CocoResults:
    """The entries of a file of COCO results.

    Raises:
        VertebraError: if it cannot be read, is no list, or an entry lacks `image_id`, `category_id`, `score` or a key
            of IOU_TYPES that others have.
    """
    content = _read_entries(path)
    keys = _keys(content)
    for number, entry in enumerate(content):
        for key in ("image_id", "category_id", "score", *(keys or ["bbox, segmentation or keypoints"])):
            if key not in entry:
                others = " as others have" if key in keys else ""
                raise VertebraError(f"{path}, entry {number} (counted from 0) has no {key}{others}.")
        if not is_number(entry["score"]):
            raise VertebraError(
                f"{path}, entry {number} (counted from 0): score is {shown(entry['score'])}, not a number up to 1e9."
            )
    return CocoResults(path, content)


def recognise(path: Path) -> bool:
    """Whether it is a .json file."""
    return path.is_file() and path.suffix.lower() == ".json"


def read_masks(path: Path, catalogue: Catalogue, split: str) -> CocoMasks:
    """The entries of a file of COCO results with masks, as `results.MaskResults`.

    Each has an `image_id`, which may be the image's name, and a `segmentation`: run lengths, compressed or not, or
    polygons. `category_id` and `score` may be missing; the score of entries without one is their `predicted_iou`, or 1.

    Raises:
        VertebraError: if it cannot be read, is no list, or an entry is malformed or does not fit the dataset.
    """
    entries = _read_entries(path)
    keys = ("category_id", "score")
    required = [key for key in keys if any(key in entry for entry in entries)]
    for number, entry in enumerate(entries):
        for key in ("image_id", "segmentation", *required):
            if key not in entry:
                reason = " as others have" if key in keys else ": there is no mask to refine" * (key != "image_id")
                raise VertebraError(f"{path}, entry {number} (counted from 0) has no {key}{reason}.")
        if not is_number(_score(entry)):
            raise VertebraError(
                f"{path}, entry {number} (counted from 0): score is {shown(_score(entry))}, not a number up to 1e9."
            )
    return CocoMasks(path, entries, catalogue, split)


def read_boxes(path: Path, catalogue: Catalogue, split: str) -> list[Prediction]:
    """The boxes, classes and scores of a file of COCO results, for each image of a split.

    Raises:
        VertebraError: if it cannot be read, or an entry is malformed or does not fit the dataset.
    """
    if not path.exists():
        raise VertebraError(f"{path} is not there: boxes are read from a .json file of COCO results.")
    if not recognise(path):
        raise VertebraError(f"{path} is no .json file of COCO results, which boxes are read from.")
    entries = read_results(path).entries
    for number, entry in enumerate(entries):
        if "bbox" not in entry:
            raise VertebraError(f"{path}, entry {number} (counted from 0) has no bbox.")
    plain = [{key: entry[key] for key in ("image_id", "category_id", "score", "bbox")} for entry in entries]
    results = _OnSplit(CocoResults(path, plain), catalogue, split)
    return [results.prediction(index) for index in range(len(results.samples))]


def _read_entries(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a file, which are objects."""
    content = read_json(path)
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
            raise VertebraError(f"{path}, entry {number} (counted from 0) is not an object but {shown(entry)}.")
    return content


class CocoResults:
    """The entries of a file of COCO results."""

    def __init__(self, path: str | Path, entries: Sequence[Mapping[str, Any]]) -> None:
        """`path` names the file in errors; the images and classes of an images.json beside it are checked."""
        self.path = path
        self.entries = entries

    @property
    def iou_types(self) -> tuple[str, ...]:
        """What the entries can be evaluated by, the most informative first; boxes if there are no entries."""
        return tuple(iou_type for key in _keys(self.entries) or ["bbox"] for iou_type in IOU_TYPES[key])

    @property
    def kind(self) -> Kind:
        """The kind of prediction that the entries hold."""
        return kinds.find(KINDS[(_keys(self.entries) or ["bbox"])[0]])

    def open(self, data: Source) -> tuple[CocoResults, Catalogue]:
        """The dataset to evaluate on, and the results as far as it has ground truth for them: without masks or
        keypoints in the dataset, the boxes alone. Images may be missing.

        Raises:
            VertebraError: if the dataset cannot be read or has nothing to evaluate the results by.
        """
        kind = self.kind
        try:
            return self, kind.read(data, missing_ok=True)
        except VertebraError:
            if "box" not in self.iou_types or kind.target_field in reading.read(data, missing_ok=True).has:
                raise
        catalogue = kinds.find("boxes").read(data, missing_ok=True)
        catalogue.notes.append(f"{catalogue.path} has no {kind.target_field}: the boxes alone are evaluated")
        left = [{k: v for k, v in entry.items() if k not in ("segmentation", "keypoints")} for entry in self.entries]
        return CocoResults(self.path, left), catalogue

    def evaluate(self, catalogue: Catalogue, split: str, *, max_detections: int | None = None) -> Evaluation:
        """Evaluates the results on a split; no image is read.

        Args:
            catalogue: the dataset, as `open` returned it.
            split: its name.
            max_detections: top-scoring detections evaluated per image and class; 100 if None, as in COCO.

        Raises:
            VertebraError: if an entry does not fit the dataset, or `max_detections` is given for keypoints.
        """
        in_range("max_detections", max_detections, 1)
        if max_detections is not None and self.iou_types == ("keypoints",):
            raise VertebraError(
                "--max_detections is for boxes and masks; of keypoints the top 20 per image are evaluated."
            )
        samples = catalogue.split(split)
        results = _OnSplit(self, catalogue, split)
        from vertebra.metrics.coco import CocoMetrics

        metrics = CocoMetrics(
            len(catalogue.classes), self.iou_types, catalogue.keypoints, max_detections=max_detections or 100
        )
        for index in track(range(len(samples)), "evaluating"):
            target = results.target(index)
            detections, objects = len(results.entries[index]), 0 if target.labels is None else len(target.labels)
            if detections * objects > MAX_PAIRS:
                raise VertebraError(
                    f"{self.path}: {target.path} has {detections:,} detections and {objects:,} objects; at most "
                    f"{MAX_PAIRS:,} pairs are compared. Keep the top-scoring detections."
                )
            metrics.update([results.prediction(index)], [target])
        with busy("computing the metrics"):
            values = metrics.compute()
        metrics.threshold = values["threshold"]
        rows = [
            {"index": index, "path": sample.target.path, **row}
            for index, (sample, row) in enumerate(zip(samples, metrics.rows(), strict=True))
        ]
        evaluation = Evaluation(
            values, rows, classes=catalogue.classes, names=metrics.names, keypoints=catalogue.keypoints
        )
        worst = [row["index"] for row in evaluation.worst(SHOWN)]
        evaluation.predictions = {index: results.prediction(index) for index in worst}
        return evaluation


class CocoMasks:
    """Results with masks, for the images of a split; see `results.MaskResults`."""

    def __init__(self, path: Path, entries: Sequence[dict[str, Any]], catalogue: Catalogue, split: str) -> None:
        self.path = path
        self.entries = entries
        has_classes = "masks" in catalogue.has or bool(catalogue.category_ids)
        self.labelled = has_classes and all("category_id" in entry for entry in entries)
        self.results = _OnSplit(CocoResults(path, entries), catalogue, split, labelled=self.labelled)
        for index, rows in enumerate(track(self.results.entries, "reading results")):
            for number, entry in rows:
                if problem := fault(entry["segmentation"], self.results.size(index)):
                    raise VertebraError(f"{self.results.where(number)}: {problem}.")

    def count(self, index: int) -> int:
        return len(self.results.entries[index])

    def prediction(self, index: int) -> Prediction:
        rows = self.results.entries[index]
        return Prediction(
            labels=torch.tensor([self.results.label(entry) for _, entry in rows], dtype=torch.int64),
            scores=torch.tensor([_score(entry) for _, entry in rows], dtype=torch.float64),
            masks=self.results.masks(index, rows),
            size=self.results.size(index),
            path=self.results.samples[index].target.path,
        )

    def save(self, folder: Path, images: Iterable[RefinedImage]) -> None:
        for image in images:
            rows = self.results.entries[image.index]
            for i in image.changed:
                entry = self.entries[rows[i][0]]
                masks = image.masks
                entry["segmentation"] = _in_form(entry["segmentation"], masks.crops[i], masks.corners[i], masks.size)
        with ExitStack() as stack:
            results = JsonList(open_text(stack, folder / self.path.name))
            for entry in self.entries:
                results.add(entry)
            results.close()


def _score(entry: Mapping[str, Any]) -> Any:
    return entry.get("score", entry.get("predicted_iou", 1.0))


def _in_form(segment: Any, mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> Any:
    """A mask [h, w] bool at (x, y) `corner` in the form of another: polygons, run lengths, or compressed ones."""
    if isinstance(segment, list):
        points = polygons(mask)
        return [[value + corner[i % 2] for i, value in enumerate(polygon)] for polygon in points]
    encoded = rle.encode_mask(mask, corner, size)
    if isinstance(segment["counts"], list):
        encoded["counts"] = rle.unpack(encoded["counts"]).tolist()
    return encoded


class _OnSplit:
    """Results as Predictions for the images of a split."""

    def __init__(self, results: CocoResults, catalogue: Catalogue, split: str, *, labelled: bool = True) -> None:
        """
        Args:
            labelled: whether every entry has a category of the dataset.

        Raises:
            VertebraError: if an entry is of an image or a category that the data does not have.
        """
        self.path = path = results.path
        self.labelled = labelled
        self.samples = catalogue.split(split)
        self.keypoints = catalogue.keypoints
        self.keys = set(_keys(results.entries)) or {"bbox"}
        categories = catalogue.category_ids or tuple(range(1, len(catalogue.classes) + 1))
        self.labels = {number: label for label, number in enumerate(categories)}
        self.names = ImageNames(catalogue, split)
        indices = {sample.target.id: i for i, sample in enumerate(self.samples) if sample.target.id is not None}
        if not indices:  # some tools then number an image by its name
            indices = {int(name): i for i, name in enumerate(self.names.names) if name.isdecimal()}
        if not indices and not all(isinstance(entry["image_id"], str) for entry in results.entries):
            raise VertebraError(f"{catalogue.path} gives its images no ids, which COCO results refer to.")
        self.entries: list[list[tuple[int, Mapping[str, Any]]]] = [[] for _ in self.samples]
        file_names, class_names = _names_beside(path)
        for number, entry in enumerate(results.entries):
            image, category = entry["image_id"], entry.get("category_id")
            if name := _look_up(file_names, image):
                index = _look_up(indices, image)
                if index is None or Path(self.samples[index].target.path).name != Path(name).name:
                    raise VertebraError(
                        f"{self.where(number)}: image_id {shown(image)} is {name} according to the images.json "
                        f"beside it, but another image in the {split} split of {catalogue.path}: predict with "
                        "--annotations=FILE, the dataset's own."
                    )
            if isinstance(image, str):
                exact = (self.names.exact(name, self.where(number)) for name in (image, Path(image).stem))
                index = next((place for place in exact if place is not None), None)
            else:
                index = _look_up(indices, image)
            if index is None:
                ids = {name: [sample.target.id for sample in part] for name, part in catalogue.splits.items()}
                elsewhere = [name for name, present in ids.items() if image in present]
                raise VertebraError(
                    f"{self.where(number)}: no image of the {split} split of {catalogue.path} has image_id "
                    f"{shown(image)}; "
                    + (f"it is in the {elsewhere[0]} split." if elsewhere else f"there are {_range(indices)}.")
                )
            self.entries[index].append((number, entry))
            if not labelled:
                continue
            if (label := _look_up(self.labels, category)) is None:
                raise VertebraError(
                    f"{self.where(number)}: {catalogue.path} has no category_id {shown(category)}; there are "
                    f"{_range(self.labels)}."
                )
            if (class_name := _look_up(class_names, category)) not in (None, catalogue.classes[label]):
                raise VertebraError(
                    f"{self.where(number)}: category_id {category} is {shown(class_name)} according to the "
                    f"images.json beside it, but {shown(catalogue.classes[label])} in {catalogue.path}: predict with "
                    "--annotations=FILE, the dataset's own."
                )

    def target(self, index: int) -> Target:
        """The ground truth of an image, masks included."""
        return self.samples[index].load_target(self.size(index))

    def size(self, index: int) -> tuple[int, int]:
        size = self.samples[index].size
        assert size is not None, "files have a size"
        return size

    def prediction(self, index: int) -> Prediction:
        """The detections in an image by descending score, equal ones in the order of the file; numbers are float64.

        Raises:
            VertebraError: if a box, a mask or keypoints are malformed.
        """
        rows = sorted(self.entries[index], key=lambda row: -row[1]["score"])
        target = self.samples[index].target
        boxes = keypoints = masks = None
        if "bbox" in self.keys:
            boxes = torch.tensor([self._floats(n, e, "bbox", 4) for n, e in rows], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
        if "keypoints" in self.keys:
            count = len(self.keypoints.names) if self.keypoints else 17
            flat = [self._floats(n, e, "keypoints", 3 * count) for n, e in rows]
            keypoints = torch.tensor(flat, dtype=torch.float64).reshape(-1, count, 3)
        if "segmentation" in self.keys:
            masks = self.masks(index, rows)
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

    def masks(self, index: int, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> Masks:
        """The masks of entries of an image.

        Raises:
            VertebraError: if one is malformed.
        """
        size = self.size(index)
        masks = Masks(size)
        for number, entry in rows:
            if problem := fault(entry["segmentation"], size):
                raise VertebraError(f"{self.where(number)}: {problem}.")
            x, y, mask = crop(entry["segmentation"], size, self.where(number))
            masks.corners.append((x, y))
            masks.crops.append(mask)
        return masks

    def label(self, entry: Mapping[str, Any]) -> int:
        """The class of an entry; 0 if it has none of the dataset."""
        return self.labels[entry["category_id"]] if self.labelled else 0

    def _floats(self, number: int, entry: Mapping[str, Any], key: str, count: int) -> list[float]:
        values = entry[key]
        if not are_numbers(values) or len(values) != count:
            raise VertebraError(
                f"{self.where(number)}: {key} is {shown(values)}, not a list of {count} numbers up to 1e9."
            )
        if key == "bbox" and (values[2] < 0 or values[3] < 0):
            raise VertebraError(f"{self.where(number)}: bbox is {values}, whose width or height is negative.")
        return list(map(float, values))

    def where(self, number: int) -> str:
        return f"{self.path}, entry {number} (counted from 0)"


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which keys of IOU_TYPES any of the entries has; an empty value, as of a mask without a pixel, does not count."""
    return [key for key in IOU_TYPES if any(entry.get(key) for entry in entries)]


def _names_beside(path: str | Path) -> tuple[dict[int, str], dict[int, str]]:
    """The file of each image_id and the class of each category_id, from the images.json that `vertebra predict` writes
    beside the results."""
    try:
        return read_names(Path(path).with_name("images.json"))
    except VertebraError:
        return {}, {}


def _look_up(table: Mapping[int, T], key: Any) -> T | None:
    """The value of an id, which may be any value of a file; none for what is no number."""
    return table.get(key) if type(key) in (int, float) else None


def _range(numbers: Mapping[Any, int]) -> str:
    """All of a few numbers, else the first and the last."""
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered)) if len(ordered) <= 8 else f"from {ordered[0]} to {ordered[-1]}, with gaps"
