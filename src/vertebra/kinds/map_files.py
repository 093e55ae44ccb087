"""Label maps and saliency maps in files: as PNG, and their regions as COCO annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.data import segments
from vertebra.files import replacing
from vertebra.kinds.writers import AnnotationsFile, RecordsWriter, stem_of
from vertebra.structures import Prediction


class MapsWriter(RecordsWriter):
    """As RecordsWriter, and for each image a file in `maps/`, as `map_of` makes it."""

    files = (*RecordsWriter.files, "maps/")

    def __init__(
        self,
        folder: Path,
        record: Callable[[Prediction], dict[str, Any]],
        row: Callable[[Mapping[str, Any]], dict[str, Any]],
        map_of: Callable[[Prediction], Image.Image],
    ) -> None:
        super().__init__(folder, record, row)
        self.map_of = map_of

    def __enter__(self) -> MapsWriter:
        super().__enter__()
        (self.folder / "maps").mkdir(exist_ok=True)
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        super().add(prediction, number, drawn)
        stem = stem_of(prediction, drawn or prediction.path or str(number))
        with replacing(self.folder / "maps" / f"{stem}.png") as temporary:
            self.map_of(prediction).save(temporary, "PNG")


class RegionsWriter(MapsWriter):
    """As MapsWriter, and instances.json: a COCO annotation for each connected region of a class, see `regions`.

    `file_name` of an image that is a file is its path relative to the folder. The first class has no annotations if it
    is called `background`. Nothing but the annotations of one image is in memory.

    Args:
        maps: the writer of the maps, not entered.
        classes: names of the classes.
        labels_of: the class of each pixel of a prediction, [H, W] uint8; a region of a saliency map gets a score.
    """

    files = (*MapsWriter.files, "instances.json")

    def __init__(self, maps: MapsWriter, classes: Sequence[str], labels_of: Callable[[Prediction], Tensor]) -> None:
        super().__init__(maps.folder, maps.record, maps.row, maps.map_of)
        self.labels_of = labels_of
        first = int(classes[0].lower() == "background")
        self.categories = {label: label + 1 - first for label in range(first, len(classes))}
        self.names = [{"id": number, "name": classes[label]} for label, number in self.categories.items()]

    def __enter__(self) -> RegionsWriter:
        super().__enter__()
        self._file = AnnotationsFile(self._close, self.folder / "instances.json", self.names)
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        super().add(prediction, number, drawn)
        number = number if prediction.id is None else prediction.id
        labels = self.labels_of(prediction)
        self._file.add_image(number, prediction.path, (labels.shape[0], labels.shape[1]))
        for region in regions(labels, self.categories, prediction.saliency):
            self._file.add({"image_id": number, **region})

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._file.close()
        return super().__exit__(*error)


def regions(labels: Tensor, categories: Mapping[int, int], scores: Tensor | None = None) -> Iterator[dict[str, Any]]:
    """The COCO annotation of each connected region of a class, without its ids; of a single pixel too.

    Pixels are connected if they share a side.

    Args:
        labels: [H, W] uint8, class of each pixel.
        categories: category id of each class; others have no annotations.
        scores: [H, W] float in 0..1; the score of a region is its mean.

    Yields:
        `category_id`, `segmentation` (see `segments.polygons`; it fills to exactly the region), `bbox` (x, y, width,
        height), `area` in pixels, `iscrowd` 0, and `score` if there are scores.
    """
    from scipy import ndimage

    pixels = labels.numpy()
    for label in np.unique(pixels).tolist():
        if label not in categories:
            continue
        numbered, _ = ndimage.label(pixels == label)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            mask = numbered[rows, columns] == number
            x, y = columns.start, rows.start
            polygons = segments.polygons(torch.from_numpy(mask))
            region = {
                "category_id": categories[label],
                "segmentation": [[int(v) + (x, y)[i % 2] for i, v in enumerate(polygon)] for polygon in polygons],
                "bbox": [x, y, columns.stop - x, rows.stop - y],
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            if scores is not None:
                region["score"] = round(float(scores[rows, columns].numpy()[mask].mean()), 6)
            yield region
