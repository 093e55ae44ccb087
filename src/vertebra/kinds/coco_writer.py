"""Detections in files that other tools read: COCO results, the images they are of, and a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vertebra.data.formats import coco
from vertebra.errors import VertebraError, nearest, shown
from vertebra.files import cell, expanded
from vertebra.kinds.writers import JsonList, WriterOptions, open_text
from vertebra.ops.rle import encode_mask
from vertebra.structures import Prediction

CONTENTS = frozenset({"objects"})


def writer(folder: Path, options: WriterOptions) -> CocoWriter:
    return CocoWriter(folder, options.classes, options.ids)


@dataclass(frozen=True)
class DatasetIds:
    """The ids of a dataset's images and categories, so that results can be evaluated against it."""

    categories: tuple[int, ...]
    """Id of each class."""
    images: dict[str, int] = field(default_factory=dict)
    """Id by file name as the dataset's file has it, with `/` between folders."""
    source: str = ""
    """The dataset's file; empty where images are numbered in their order."""

    @staticmethod
    def default(classes: Sequence[str]) -> DatasetIds:
        """Without a dataset: classes are 1, 2, ... in their order."""
        return DatasetIds(tuple(range(1, len(classes) + 1)))

    @staticmethod
    def read(path: str | Path, classes: Sequence[str]) -> DatasetIds:
        """From a COCO annotation file; its annotations are not read.

        Raises:
            VertebraError: if it is no such file, or lacks a category for one of the classes.
        """
        files, categories = coco.read_names(expanded(path))
        images = {name: number for number, name in files.items()}
        names = {name: number for number, name in categories.items()}
        for name in classes:
            if name not in names:
                raise VertebraError(
                    f"{path} has no category {shown(name)}, which the model detects.{nearest(name, names)}"
                )
        return DatasetIds(tuple(names[name] for name in classes), images, str(path))

    def of_all(self, paths: Sequence[Path]) -> list[int]:
        """The ids of images.

        Raises:
            VertebraError: if the dataset lacks one of the images, or two of them have one id.
        """
        path_of: dict[int, Path] = {}
        for path in paths:
            if (other := path_of.setdefault(self.of(path), path)) != path:
                raise VertebraError(
                    f"{other} and {path} would both be image {self.of(path)} of {self.source}: predict on one split at "
                    "a time."
                )
        return list(path_of)

    def of(self, path: Path) -> int:
        """The id of the image whose path ends with the dataset's name for it.

        Raises:
            VertebraError: if the dataset has no such image.
        """
        parts = path.absolute().parts  # of a link: its target may have another name
        for start in range(len(parts)):  # the longest name first: train/1.png and val/1.png are not the same
            if (number := self.images.get(Path(*parts[start:]).as_posix())) is not None:
                return number
        raise VertebraError(f"{path} is not among the {len(self.images)} images of {self.source}.")


def entries(prediction: Prediction, image: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """The COCO result of each detection in an image.

    Args:
        prediction: of the image.
        image: id of the image.
        categories: id of each class.

    Returns:
        Entries with `image_id`, `category_id`, `score` and `bbox` (x, y, width, height in pixels); where there are
        masks `segmentation` (compressed RLE), where there are keypoints `keypoints` (x, y, score of each in turn).
    """
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    results: list[dict[str, Any]] = []
    for i, (box, label, score) in enumerate(
        zip(prediction.boxes.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        entry: dict[str, Any] = {
            "image_id": image,
            "category_id": categories[label],
            "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
            "score": round(score, 6),
        }
        if (masks := prediction.masks) is not None:
            entry["segmentation"] = encode_mask(masks.crops[i], masks.corners[i], masks.size)
        if prediction.keypoints is not None:
            entry["keypoints"] = [round(value, 3) for value in prediction.keypoints[i].flatten().tolist()]
        results.append(entry)
    return results


class CocoWriter:
    """predictions.json (COCO results), images.json and predictions.csv, written detection by detection.

    A context manager: the files are there, complete, if it exits without an error. Detections that have been written
    are not kept in memory.
    """

    files: tuple[str, ...] = ("predictions.csv", "images.json", "predictions.json")

    def __init__(self, folder: Path, classes: Sequence[str], ids: DatasetIds | None = None) -> None:
        self.folder, self.classes = folder, classes
        self.ids = ids or DatasetIds.default(classes)

    def __enter__(self) -> CocoWriter:
        with ExitStack() as stack:
            self._results = JsonList(open_text(stack, self.folder / "predictions.json"))
            self._about = open_text(stack, self.folder / "images.json")
            self._table = csv.writer(open_text(stack, self.folder / "predictions.csv"))
            self._close = stack.pop_all()
        self._table.writerow(["path", "class", "score", "x1", "y1", "x2", "y2"])
        self._about.write('{"images": ')
        self._images = JsonList(self._about)
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        """Writes the detections in an image; `number` is its id if the prediction has none, `drawn` the file in which
        they are drawn."""
        number = number if prediction.id is None else prediction.id
        for entry in entries(prediction, number, self.ids.categories):
            self._results.add(entry)
        height, width = prediction.size or (0, 0)
        about = {"id": number, "file_name": prediction.path, "height": height, "width": width, "drawn": drawn}
        self._images.add(about)
        assert prediction.boxes is not None
        assert prediction.labels is not None
        assert prediction.scores is not None
        for box, label, score in zip(prediction.boxes, prediction.labels, prediction.scores, strict=True):
            corners = [round(value, 2) for value in box.tolist()]
            self._table.writerow([cell(prediction.path), cell(self.classes[label]), round(float(score), 6), *corners])

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._results.close()
            self._images.close()
            categories = [
                {"id": number, "name": name} for number, name in zip(self.ids.categories, self.classes, strict=True)
            ]
            self._about.write(f', "annotations": [], "categories": {json.dumps(categories)}}}\n')
        return self._close.__exit__(*error)
