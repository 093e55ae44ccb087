"""Predictions as datasets of their images, which a student can be trained on: the images stay where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vertebra.data import soft_labels
from vertebra.data.formats.coco import category_keypoints
from vertebra.files import replacing
from vertebra.kinds.coco_writer import entries
from vertebra.kinds.writers import AnnotationsFile, WriterOptions, open_text
from vertebra.structures import Prediction


class SoftLabelsWriter:
    """labels.csv with the top class or the tags of each image, and soft_labels.safetensors with all probabilities."""

    files: tuple[str, ...] = (soft_labels.LIST, soft_labels.TENSOR)

    def __init__(
        self,
        folder: Path,
        options: WriterOptions,
        probabilities: Callable[[Prediction], Tensor | None],
        columns: Callable[[Prediction], Mapping[str, object]],
    ) -> None:
        """`probabilities` are those of a prediction, and `columns` what the list says of it."""
        self.folder, self.options = folder, options
        self.probabilities_of, self.columns_of = probabilities, columns
        self.paths: list[str] = []
        self.probabilities: list[Tensor] = []
        self.columns: list[Mapping[str, object]] = []

    def __enter__(self) -> SoftLabelsWriter:
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        probabilities = self.probabilities_of(prediction)
        assert probabilities is not None
        self.paths.append(prediction.path)
        self.probabilities.append(probabilities.float())
        self.columns.append(self.columns_of(prediction))

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None and self.paths:
            probabilities, independent = torch.stack(self.probabilities), self.options.independent
            soft_labels.write(
                self.folder, self.options.classes, self.paths, probabilities, self.columns, independent=independent
            )
        return None


class AnnotationsWriter:
    """instances.json: COCO annotations of the objects, each with its score.

    A keypoint is visible; what a detector does not predict is not there.
    """

    files: tuple[str, ...] = ("instances.json",)

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        self.folder = folder
        schema = category_keypoints(options.keypoints)
        self.numbers = range(1, len(options.classes) + 1)
        self.categories = [
            {"id": number, "name": name} | schema for number, name in zip(self.numbers, options.classes, strict=True)
        ]

    def __enter__(self) -> AnnotationsWriter:
        with ExitStack() as stack:
            self._file = AnnotationsFile(stack, self.folder / "instances.json", self.categories)
            self._close = stack.pop_all()
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        assert prediction.size is not None
        self._file.add_image(number, prediction.path, prediction.size)
        for i, entry in enumerate(entries(prediction, number, self.numbers)):
            width, height = entry["bbox"][2:]
            entry["area"] = (
                round(width * height, 3) if prediction.masks is None else int(prediction.masks.crops[i].sum())
            )
            entry["iscrowd"] = 0
            if prediction.keypoints is not None:
                keypoints = prediction.keypoints[i, :, :2].tolist()
                entry["keypoints"] = [value for x, y in keypoints for value in (round(x, 3), round(y, 3), 2)]
                entry["num_keypoints"] = len(keypoints)
            self._file.add(entry)

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._file.close()
        return self._close.__exit__(*error)


class LabelMapsWriter:
    """train.txt with an image and its label map in each line, the label maps in `maps/`, and the classes in
    classes.json."""

    files: tuple[str, ...] = ("train.txt", "classes.json", "maps/")

    def __init__(self, folder: Path, options: WriterOptions, image_of: Callable[[Prediction], Image.Image]) -> None:
        self.folder, self.classes, self.image_of = folder, options.classes, image_of

    def __enter__(self) -> LabelMapsWriter:
        (self.folder / "maps").mkdir(exist_ok=True)
        with ExitStack() as stack:
            self._list = open_text(stack, self.folder / "train.txt")
            self._close = stack.pop_all()
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        name = f"maps/{number:06}.png"
        with replacing(self.folder / name) as temporary:
            self.image_of(prediction).save(temporary, "PNG")
        self._list.write(f"{os.path.relpath(prediction.path, self.folder)}\t{name}\n")

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            with replacing(self.folder / "classes.json") as temporary:
                temporary.write_text(json.dumps({"names": list(self.classes)}))
        return self._close.__exit__(*error)
