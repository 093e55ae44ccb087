"""Predictions in files: the contract of writers, and the one that kinds share.

A module of this folder named FORMAT_writer.py is a format of `vertebra predict --format`; nothing is registered. It has
- CONTENTS: what it holds, of `objects`, each with a class, a score and a box; `tags`, the classes of whole images; and
  `map`, the class of each pixel;
- writer(folder, options) -> Writer.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import pkgutil
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any, Protocol, TextIO

from torch import Tensor

from vertebra.data.convert import NO_TEXT
from vertebra.errors import VertebraError, shown
from vertebra.files import cell, held, replacing
from vertebra.structures import KeypointSchema, Prediction
from vertebra.viz import draw


@dataclass(frozen=True)
class WriterOptions:
    """How predictions are written."""

    classes: Sequence[str]
    """Names of the classes."""
    ids: Any = None
    """What `Kind.dataset_ids` returned; images and classes are numbered from 1 if None."""
    keypoints: KeypointSchema | None = None
    """The keypoints of every object, if there are any."""
    scores: bool = False
    """Whether label files have the score of each object."""
    original: Callable[[Any], Path | Tensor] | None = None
    """The file of a prediction's image, or its pixels [C, H, W] uint8; for formats that hold the images too."""
    tags: Callable[[Prediction], Sequence[int]] | None = None
    """The classes of the whole image, where these are predicted."""
    independent: bool = False
    """Whether each class of the whole image has a probability of its own."""
    label_map: Callable[[Prediction], Tensor] | None = None
    """The class of each pixel, [H, W] uint8, where these are predicted."""

    @property
    def background(self) -> bool:
        """Whether the first class is what no region of a label map is written of."""
        return self.label_map is not None and self.classes[0].lower() == "background"


LABELLED = 0.5
"""Keypoints with a lower score are written as not labelled."""


class Writer(Protocol):
    """Writes predictions one by one. A context manager: the files are there, complete, if it exits without an error.

    What was written is not kept in memory.
    """

    files: tuple[str, ...]
    """Names of the files."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> bool | None: ...

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        """Writes the prediction for an image.

        Args:
            prediction: its path names the image.
            number: id of the image where the prediction has none.
            drawn: name of the file in which the prediction is drawn.
        """
        ...


def formats(content: str) -> dict[str, ModuleType]:
    """The formats by name that hold `objects`, `tags` or `map`."""
    package = __name__.rpartition(".")[0]
    names = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    modules = {
        name.removesuffix("_writer"): importlib.import_module(f"{package}.{name}")
        for name in names
        if name.endswith("_writer")
    }
    return {name: module for name, module in modules.items() if content in module.CONTENTS}


def stem_of(prediction: Prediction, drawn: str) -> str:
    """What the names of an image's further files begin with: the name of its drawing, of a frame with its index."""
    frame = prediction.path.rpartition("#")[2]
    return f"{Path(drawn).stem}_{frame}" if frame.isdigit() else Path(drawn).stem


def save_original(prediction: Prediction, drawn: str, folder: Path, options: WriterOptions) -> str:
    """Puts the image of a prediction into `folder`: a copy of its file, or its pixels as PNG. Returns the file's name.

    Raises:
        VertebraError: if the file would be overwritten.
    """
    assert options.original is not None
    image = options.original(prediction)
    suffix = image.suffix if isinstance(image, Path) else ".png"
    path = folder / f"{stem_of(prediction, drawn)}{suffix}"
    if isinstance(image, Path) and image.resolve() == path.resolve():
        raise VertebraError(f"{path} and its annotations would be overwritten: choose another folder to save to.")
    with replacing(path) as temporary:
        if isinstance(image, Path):
            shutil.copyfile(image, temporary)
        else:
            draw.to_image(image).save(temporary, "PNG")
    return path.name


def check_text(classes: Sequence[str]) -> None:
    """Raises VertebraError if a name has characters that XML cannot hold."""
    for name in classes:
        if NO_TEXT.search(name):
            raise VertebraError(f"class {shown(name)} has characters that XML cannot hold: choose another format.")


def open_text(stack: ExitStack, path: Path) -> TextIO:
    """A text file that takes its place when the stack is closed, if no error does that."""
    temporary = stack.enter_context(held(path))
    return stack.enter_context(temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace"))


class JsonList:
    """Writes a JSON list item by item."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.count = 0
        file.write("[")

    def add(self, item: Any) -> None:
        self.file.write((",\n" if self.count else "\n") + json.dumps(item))
        self.count += 1

    def close(self) -> None:
        self.file.write("\n]")


class AnnotationsFile:
    """A COCO annotation file, of which nothing but one entry is in memory.

    Args:
        stack: closes it.
        path: of the file.
        categories: its categories.
    """

    def __init__(self, stack: ExitStack, path: Path, categories: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.categories = path.parent, categories
        self._file = open_text(stack, path)
        self._file.write('{"annotations": ')
        self._annotations = JsonList(self._file)
        # Both lists of the file grow at once: the entries of images wait in a file of their own.
        self._buffer = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115
        self._images = JsonList(self._buffer)

    def add_image(self, number: int, path: str, size: tuple[int, int]) -> None:
        """An image of (height, width) `size`; `file_name` of one that is a file is relative to the folder."""
        name = os.path.relpath(path, self.folder) if os.path.isfile(path) else path
        self._images.add({"id": number, "file_name": name, "height": size[0], "width": size[1]})

    def add(self, annotation: Mapping[str, Any]) -> None:
        """An annotation, which is given an id."""
        self._annotations.add({"id": self._annotations.count + 1, **annotation})

    def close(self) -> None:
        self._annotations.close()
        self._images.close()
        self._buffer.seek(0)
        self._file.write(',\n"images": ')
        shutil.copyfileobj(self._buffer, self._file)
        self._file.write(f',\n"categories": {json.dumps(self.categories)}}}\n')


class RecordsWriter:
    """predictions.json, a list with a record per image, and predictions.csv, a line per image.

    Args:
        folder: to write to.
        record: the entry of a prediction in predictions.json beside `path` and `drawn`.
        row: the line of a record in predictions.csv after `path`; all have the same columns.
    """

    files: tuple[str, ...] = ("predictions.csv", "predictions.json")

    def __init__(
        self,
        folder: Path,
        record: Callable[[Prediction], dict[str, Any]],
        row: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> None:
        self.folder, self.record, self.row = folder, record, row
        self._table: csv.DictWriter | None = None

    def __enter__(self) -> RecordsWriter:
        with ExitStack() as stack:
            self._json = open_text(stack, self.folder / "predictions.json")
            self._csv = open_text(stack, self.folder / "predictions.csv")
            self._close = stack.pop_all()
        self._records = JsonList(self._json)
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        record = self.record(prediction)
        self._records.add({"path": prediction.path, "drawn": drawn, **record})
        self._write_row({"path": prediction.path, **self.row(record)})

    def _write_row(self, row: Mapping[str, Any] | None) -> None:
        if self._table is None:
            self._table = csv.DictWriter(self._csv, list(row or ["path"]))
            self._table.writeheader()
        if row:
            self._table.writerow({key: cell(value) if isinstance(value, str) else value for key, value in row.items()})

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._write_row(None)  # the header, if there was no prediction
            self._records.close()
        return self._close.__exit__(*error)
