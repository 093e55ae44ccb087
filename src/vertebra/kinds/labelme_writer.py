"""LabelMe's JSON, with the images: rectangles, polygons of masks and label maps, keypoints, flags of whole images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vertebra.data import segments
from vertebra.files import replacing
from vertebra.kinds.map_files import regions
from vertebra.kinds.writers import LABELLED, WriterOptions, save_original
from vertebra.structures import Instance, Prediction

CONTENTS = frozenset({"objects", "tags", "map"})
PLACE = "annotations"
"""Folder of the images and their files."""
VERSION = "5.5.0"
"""Of LabelMe, whose form the files have."""


class LabelMeWriter:
    """annotations/NAME.json beside annotations/NAME.* for each image, NAME being that of its drawing.

    The shapes of one object have one group_id; its score is their description.
    """

    files: tuple[str, ...] = (f"{PLACE}/",)

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        self.folder, self.options = folder / PLACE, options

    def __enter__(self) -> LabelMeWriter:
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        name = save_original(prediction, drawn, self.folder, self.options)
        assert prediction.size is not None
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": self._flags(prediction),
            "shapes": list(self._regions(prediction) if self.options.label_map else self._shapes(prediction)),
            "imagePath": name,
            "imageData": None,
            "imageHeight": prediction.size[0],
            "imageWidth": prediction.size[1],
        }
        with replacing(self.folder / f"{Path(name).stem}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _flags(self, prediction: Prediction) -> dict[str, bool]:
        """Whether the image has each class."""
        if self.options.tags is None:
            return {}
        tags = set(self.options.tags(prediction))
        return {name: label in tags for label, name in enumerate(self.options.classes)}

    def _regions(self, prediction: Prediction) -> Iterator[dict[str, Any]]:
        """The polygons of each connected region of a class."""
        assert self.options.label_map is not None
        labels = range(int(self.options.background), len(self.options.classes))
        numbered = regions(self.options.label_map(prediction), {label: label for label in labels})
        for number, region in enumerate(numbered, 1):
            for outline in region["segmentation"]:
                yield {
                    "label": self.options.classes[region["category_id"]],
                    "points": [list(point) for point in zip(outline[::2], outline[1::2], strict=True)],
                    "group_id": number,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                }

    def _shapes(self, prediction: Prediction) -> Iterator[dict[str, Any]]:
        for instance in () if self.options.tags else prediction:
            for kind, label, points in self._parts(instance):
                yield {
                    "label": label,
                    "points": [[round(value, 3) for value in point] for point in points],
                    "group_id": instance.index + 1,
                    "description": "" if instance.score is None else f"{instance.score:.3f}",
                    "shape_type": kind,
                    "flags": {},
                }

    def _parts(self, instance: Instance) -> Iterator[tuple[str, str, list[list[float]]]]:
        """shape_type, label and points of the shapes of an object; the polygons of a mask stand for its box."""
        assert instance.box is not None
        assert instance.label is not None
        name, masks, outlines = self.options.classes[instance.label], instance.prediction.masks, []
        if masks is not None:
            left, top = masks.corners[instance.index]
            outlines = segments.polygons(masks.crops[instance.index])
            for outline in outlines:
                yield "polygon", name, [[x + left, y + top] for x, y in zip(outline[::2], outline[1::2], strict=True)]
        if not outlines:
            x1, y1, x2, y2 = instance.box
            yield "rectangle", name, [[x1, y1], [x2, y2]]
        if instance.keypoints is not None and self.options.keypoints is not None:
            for point, (x, y, score) in zip(self.options.keypoints.names, instance.keypoints.tolist(), strict=True):
                if score >= LABELLED:
                    yield "point", point, [[x, y]]

    def __exit__(self, *error: Any) -> None:
        pass


def writer(folder: Path, options: WriterOptions) -> LabelMeWriter:
    return LabelMeWriter(folder, options)
