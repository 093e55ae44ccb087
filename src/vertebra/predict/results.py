"""Found objects in files that other tools read: COCO's results, the pictures they are of, and a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vertebra.errors import VertebraError, nearest
from vertebra.files import expanded, held
from vertebra.metrics.coco import encode
from vertebra.structures import Prediction


@dataclass(frozen=True)
class Numbers:
    """What a data set calls its pictures and classes, so that results can be measured against it."""

    categories: tuple[int, ...]
    """The number of each class."""
    pictures: dict[str, int] = field(default_factory=dict)
    """Number by file name, as the data set's file has it, with `/` between folders."""
    source: str = ""
    """The file they come from; empty where pictures are numbered as they come."""

    @staticmethod
    def plain(classes: Sequence[str]) -> Numbers:
        """Without a data set: classes are 1, 2, ... in their order."""
        return Numbers(tuple(range(1, len(classes) + 1)))

    @staticmethod
    def read(path: str | Path, classes: Sequence[str]) -> Numbers:
        """From a COCO annotation file; the annotations in it are not looked at.

        Raises:
            VertebraError: if it is none, or has no category of a class's name.
        """
        try:
            content = json.loads(expanded(path).read_text(encoding="utf-8"))
            pictures = {str(image["file_name"]).replace("\\", "/"): int(image["id"]) for image in content["images"]}
            names = {str(category["name"]): int(category["id"]) for category in content["categories"]}
        except OSError as error:
            raise VertebraError(f"{path} cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise VertebraError(f"{path} is not valid JSON ({error}).") from error
        except (KeyError, TypeError) as error:
            raise VertebraError(
                f"{path} is no COCO annotation file: it needs images with file_name and id, and categories with name "
                "and id."
            ) from error
        for name in classes:
            if name not in names:
                raise VertebraError(f"{path} has no category {name!r}, which the model finds.{nearest(name, names)}")
        return Numbers(tuple(names[name] for name in classes), pictures, str(path))

    def of_all(self, paths: Sequence[Path]) -> list[int]:
        """The numbers of pictures.

        Raises:
            VertebraError: if the data set has no such picture, or two have one number.
        """
        found: dict[int, Path] = {}
        for path in paths:
            if (other := found.setdefault(self.of(path), path)) != path:
                raise VertebraError(
                    f"{other} and {path} would both be picture {self.of(path)} of {self.source}: ask about one split "
                    "at a time."
                )
        return list(found)

    def of(self, path: Path) -> int:
        """The number of a picture whose path ends with the name that the data set gives it.

        Raises:
            VertebraError: if the data set has no such picture.
        """
        whole = path.absolute()  # a link has the picture's name, what it leads to may have another
        for start in range(len(whole.parts)):  # the longest name first: train/1.png and val/1.png are not the same
            if (number := self.pictures.get(Path(*whole.parts[start:]).as_posix())) is not None:
                return number
        raise VertebraError(f"{path} is not among the {len(self.pictures)} pictures of {self.source}.")


def entries(prediction: Prediction, image: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's entry for each object of a picture; `categories` are the numbers of the classes.

    `bbox` is x, y, width, height in pixels; `segmentation` compressed run lengths, where there are masks; `keypoints`
    x, y, score of each in turn, where there are keypoints.
    """
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    found: list[dict[str, Any]] = []
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
            runs = encode(masks.crops[i], masks.corners[i], masks.size)
            counts = runs["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            entry["segmentation"] = {"size": list(masks.size), "counts": text}
        if prediction.keypoints is not None:
            entry["keypoints"] = [round(value, 3) for value in prediction.keypoints[i].flatten().tolist()]
        found.append(entry)
    return found


class Results:
    """Writes predictions.json, images.json and predictions.csv into a folder, object by object.

    A context: the files are there, whole, when it ends well. What has been written is not kept in memory.
    """

    def __init__(self, folder: Path, classes: Sequence[str], numbers: Numbers) -> None:
        self.classes, self.numbers = classes, numbers
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.count = 0

    def __enter__(self) -> Results:
        with ExitStack() as stack:
            self._json = self._open(stack, "predictions.json")
            self._images = self._open(stack, "images.json")
            self._csv = self._open(stack, "predictions.csv")
            self._close = stack.pop_all()
        self._table = csv.writer(self._csv)
        self._table.writerow(["path", "class", "score", "x1", "y1", "x2", "y2"])
        self._json.write("[")
        return self

    def _open(self, stack: ExitStack, name: str) -> TextIO:
        temporary = stack.enter_context(held(self.folder / name))
        return stack.enter_context(temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace"))

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        """Writes down what was found in a picture, which is `drawn` in that file; `number` is its own if the prediction
        has no `id`."""
        assert prediction.boxes is not None
        number = number if prediction.id is None else prediction.id
        for entry in entries(prediction, number, self.numbers.categories):
            self._json.write((",\n" if self.count else "\n") + json.dumps(entry))
            self.count += 1
        height, width = prediction.size or (0, 0)
        about = {"id": number, "file_name": prediction.path, "height": height, "width": width, "drawn": drawn}
        self.images.append(about)
        assert prediction.labels is not None
        assert prediction.scores is not None
        for box, label, score in zip(prediction.boxes, prediction.labels, prediction.scores, strict=True):
            place = [round(value, 2) for value in box.tolist()]
            self._table.writerow([prediction.path, self.classes[label], round(float(score), 6), *place])

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._json.write("\n]\n")
            categories = [
                {"id": number, "name": name} for number, name in zip(self.numbers.categories, self.classes, strict=True)
            ]
            content = {"images": self.images, "annotations": [], "categories": categories}
            self._images.write(json.dumps(content, indent=1))
        return self._close.__exit__(*error)
