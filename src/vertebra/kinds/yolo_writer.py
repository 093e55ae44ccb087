"""Detections as a dataset of YOLO: a text file per image or frame, a line per object, and the images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from vertebra.data import segments
from vertebra.errors import escaped
from vertebra.files import replacing
from vertebra.kinds.writers import LABELLED, WriterOptions, open_text, save_original
from vertebra.structures import Prediction

CONTENTS = frozenset({"objects"})


class YoloWriter:
    """labels/NAME.txt and images/NAME.* for each image, NAME being that of its drawing, and data.yaml with the classes,
    in which they are training images.

    A line holds the class, then x, y, width, height of the box, or the polygon of the mask, in shares of the image;
    behind a box its keypoints with their visibility, 2 or 0. The score ends the line if it is asked for.
    """

    files: tuple[str, ...] = ("images/", "labels/", "data.yaml")

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        self.folder, self.options = folder, options
        self._frames: dict[str, int] = {}

    def __enter__(self) -> YoloWriter:
        with ExitStack() as stack:
            file = open_text(stack, self.folder / "data.yaml")
            self._close = stack.pop_all()
        names = {i: escaped(name) for i, name in enumerate(self.options.classes)}
        content: dict[str, Any] = {"train": "images", "names": names}
        if self.options.keypoints:
            content["kpt_shape"] = [len(self.options.keypoints.names), 3]
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        """As of any Writer; the frames of a video have their number in the name."""
        name = save_original(prediction, drawn, self.folder / "images", self.options)
        path = self.folder / "labels" / f"{Path(name).stem}.txt"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines(prediction, scores=self.options.scores)))

    def __exit__(self, *error: Any) -> bool | None:
        return self._close.__exit__(*error)


def writer(folder: Path, options: WriterOptions) -> YoloWriter:
    return YoloWriter(folder, options)


def lines(prediction: Prediction, *, scores: bool = False) -> Iterator[str]:
    """The line of each object; `scores` puts its score at the end."""
    assert prediction.size is not None
    height, width = prediction.size
    for i, instance in enumerate(prediction):
        assert instance.box is not None
        values: list[float] = []
        if prediction.masks is not None:
            (x, y), crop = prediction.masks.corners[i], prediction.masks.crops[i]
            values = [
                (value + start) / side
                for value, (start, side) in zip(segments.outline(crop), itertools.cycle([(x, width), (y, height)]))
            ]
        if not values:
            x1, y1, x2, y2 = instance.box
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        for x_key, y_key, score in [] if instance.keypoints is None else instance.keypoints.tolist():
            values += [x_key / width, y_key / height, 2] if score >= LABELLED else [0, 0, 0]
        values += [instance.score or 0.0] if scores else []
        yield " ".join([str(instance.label), *(f"{value:.6g}" for value in values)])
