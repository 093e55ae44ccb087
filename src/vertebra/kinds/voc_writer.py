"""Detections as Pascal VOC's XML, with the images: a dataset that annotation tools open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vertebra.data.formats import voc
from vertebra.files import replacing
from vertebra.kinds.writers import WriterOptions, check_text, save_original
from vertebra.structures import Prediction, Target

OBJECTS = True


class VocWriter:
    """Annotations/NAME.xml and JPEGImages/NAME.* for each image, NAME being that of its drawing; boxes only."""

    files: tuple[str, ...] = ("Annotations/", "JPEGImages/")

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        check_text(options.classes)
        self.folder, self.options = folder, options

    def __enter__(self) -> VocWriter:
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        name = save_original(prediction, drawn, self.folder / "JPEGImages", self.options)
        target = Target(boxes=prediction.boxes, labels=prediction.labels, size=prediction.size)
        with replacing(self.folder / "Annotations" / f"{Path(name).stem}.xml") as temporary:
            voc.document(target, name, self.options.classes).write(temporary, encoding="utf-8")

    def __exit__(self, *error: Any) -> None:
        pass


def writer(folder: Path, options: WriterOptions) -> VocWriter:
    return VocWriter(folder, options)
