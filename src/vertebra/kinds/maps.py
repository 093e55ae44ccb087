"""What label maps and saliency maps have in common: a value for every pixel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape as escape_markup
from rich.table import Column, Table
from torch import Tensor
from torchvision.ops import masks_to_boxes

from vertebra.data import reading
from vertebra.data.augment import Transform
from vertebra.data.augment.pixels import PixelsAugment, PixelsTransform
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import Source
from vertebra.errors import VertebraError, shown
from vertebra.kinds.base import Kind
from vertebra.kinds.map_files import MapsWriter, RegionsWriter
from vertebra.kinds.tiles import Tile
from vertebra.kinds.writers import Writer, WriterOptions, formats
from vertebra.metrics.evaluation import Evaluation
from vertebra.ops.resample import bands, resampled
from vertebra.structures import IGNORED, Answer, KeypointSchema, Prediction, Preprocess, Target
from vertebra.viz import maps

EDGE = 0.05
"""Least weight of a tile's pixel, at its border, where tiles overlap."""
MAX_ABSENT = 20
"""Classes without a pixel in train that are named."""


class PixelMaps(Kind):
    """A value for every pixel; subclasses say what the logits mean."""

    target_field = "semantic"
    contents = "map"
    augment: ClassVar[type] = PixelsAugment
    no_augment: ClassVar[Any] = PixelsAugment(scales=(0.0, 0.0), flip=0.0, colour=0.0)
    resize_modes: ClassVar[tuple[str, ...]] = ("shortest", "fit", "squash")
    options = frozenset({"tile", "overlap", "point"})
    eval_batch_size = 4
    tta_scales: ClassVar[tuple[float, ...]] = (0.75, 1.0, 1.25)

    row_key: ClassVar[str]
    """An entry that the rows of the kind's own metrics have."""
    map_name: ClassVar[str]
    """Of the map, in `map_images`."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits [K, ...] the probabilities of the classes, which are averaged over views and tiles."""

    @abstractmethod
    def to_logits(self, probabilities: Tensor) -> Tensor:
        """The inverse of `probabilities`, up to a constant."""

    @abstractmethod
    def decided(self, probabilities: Tensor) -> Tensor:
        """The predicted map [...] from probabilities [..., K]."""

    @abstractmethod
    def with_map(self, prediction: Prediction, values: Tensor) -> Prediction:
        """The prediction with what `decided` returned."""

    @abstractmethod
    def hard_labels(self, prediction: Prediction) -> Tensor:
        """The class of each pixel, [H, W] uint8."""

    @abstractmethod
    def to_image(self, prediction: Prediction, num_classes: int) -> Image.Image:
        """The map as an image, a pixel for each of its pixels."""

    # -- data

    def check(self, preprocess: Preprocess, augment: Any = None) -> None:
        if preprocess.resize == "crop":
            raise VertebraError(
                "resize is 'crop', which would cut pixels off that are to be labelled; choose 'shortest', 'fit' or "
                "'squash'."
            )

    def transform(self, augment: Any, preprocess: Preprocess, keypoints: KeypointSchema | None = None) -> Transform:
        return PixelsTransform(augment, preprocess)

    def read(self, path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
        """Label maps, or else instance masks painted as such: the background is then the first class."""
        catalogue = reading.read(path, fields=self.fields, seed=seed, missing_ok=missing_ok)
        if "semantic" not in catalogue.has and "masks" in catalogue.has:
            return reading.painted(path, seed=seed, missing_ok=missing_ok)
        self.check_fields(catalogue)
        return catalogue

    # -- predictions

    def merge_views(self, predictions: Sequence[Prediction]) -> Prediction:
        """The mean of the probabilities, on the finest of the grids."""
        maps = [prediction.logits for prediction in predictions if prediction.logits is not None]
        size = max((x.shape[1], x.shape[2]) for x in maps)
        total = sum(self.probabilities(x if x.shape[1:] == size else resampled(x, size)) for x in maps)
        assert isinstance(total, Tensor)
        return replace(predictions[0], logits=self.to_logits(total / len(maps)))

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """The pixels of one class in both."""
        same = self.hard_labels(prediction) == self.hard_labels(other)
        return int(same.sum()), same.numel()

    def finish(self, prediction: Prediction) -> Prediction:
        """The prediction in pixels of the image, once its views are merged."""
        if prediction.logits is None:
            return prediction
        assert prediction.size is not None
        rows = [
            self.decided(self.probabilities(x.movedim(-1, 0)).movedim(0, -1))
            for _, x in bands(prediction.logits, prediction.size)
        ]
        return self.with_map(replace(prediction, logits=None), torch.cat(rows))

    def merge_tiles(
        self, predictions: Iterable[Prediction], tiles: Sequence[Tile], size: tuple[int, int]
    ) -> Prediction:
        """The mean of the probabilities where tiles overlap, weighted towards the middle of each.

        In memory are the sums of the pixels that a tile has in common with the next, and a row of tiles with the next.
        """
        tops, lefts = (sorted({tile.box[axis] for tile in tiles}) for axis in (1, 0))
        below = dict(zip(tops, [*tops[1:], size[0]], strict=True))  # where the next row of tiles begins
        beside = dict(zip(lefts, [*lefts[1:], size[1]], strict=True))
        x1, y1, x2, y2 = tiles[0].box
        height, width = y2 - y1, x2 - x1
        common = max(1, *(top + height - below[top] for top in tops)), max(1, *(x + width - beside[x] for x in lefts))
        # Of each pixel the weighted probabilities and last the weight: of the tile before, and of the row above.
        left = seam = merged = torch.empty(0)
        above = shared = 0  # rows that the tiles above have too, and columns that the tile before has
        for tile, prediction in zip(tiles, predictions, strict=True):
            assert prediction.logits is not None
            x1, y1, x2, y2 = tile.box
            bottom, right = below[y1], beside[x1]
            if not seam.numel():
                seam = torch.empty(common[0], size[1], len(prediction.logits) + 1)
                left = seam.new_empty(height, common[1], seam.shape[2])
            across, down = _ramp(width)[None, :, None], _ramp(height)[:, None, None]
            for rows, logits in bands(prediction.logits, (height, width)):
                share = down[rows] * across
                sums = torch.cat([share * self.probabilities(logits.movedim(-1, 0)).movedim(0, -1), share], 2)
                sums[:, :shared] += left[rows, :shared]
                if rows.start < above:
                    sums[: above - rows.start, shared:] += seam[rows.start : min(rows.stop, above), x1 + shared : x2]
                left[rows, : x2 - right] = sums[:, right - x1 :]
                whole = sums[:, : right - x1]
                inside = max(0, min(len(whole), bottom - y1 - rows.start))  # rows that the tiles below do not have
                values = self.decided(whole[:inside, :, :-1] / whole[:inside, :, -1:])
                merged = merged if merged.numel() else values.new_empty(size)
                merged[y1 + rows.start : y1 + rows.start + len(values), x1:right] = values
                first = max(0, rows.start - (bottom - y1))
                seam[first : first + len(whole) - inside, x1:right] = whole[inside:]
            shared = x2 - right
            if right == size[1]:
                above = y2 - bottom
        return self.with_map(Prediction(size=size), merged)

    def map_images(self, prediction: Prediction, classes: Sequence[str]) -> dict[str, Image.Image]:
        return {self.map_name: self.to_image(prediction, len(classes))}

    def to_supervision(self, prediction: Prediction, classes: Sequence[str], supervision: Any) -> Any:
        """Detections: one for each class that occurs, apart from a first class `background`, with its mask."""
        labels = self.hard_labels(prediction)
        first = int(classes[0].lower() == "background")
        present = [label for label in labels.unique().tolist() if first <= label < len(classes)]
        masks = torch.stack([labels == label for label in present]) if present else torch.zeros(0, *labels.shape) > 0
        boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # which ends at the last pixel
        return supervision.Detections(
            xyxy=boxes.numpy(),
            mask=masks.numpy(),
            class_id=np.array(present, dtype=int),
            data={"class_name": np.array([classes[label] for label in present], dtype=str)},
        )

    def writer(self, folder: Path, options: WriterOptions, *, format: str = "", top: int = 3) -> Writer:
        """The maps as PNG files, and a record per image in predictions.csv and predictions.json; with the format `coco`
        the regions of the classes in instances.json too. Formats of annotation tools are instead of these."""
        known = formats(self.contents)
        if format in known:
            return known[format].writer(folder, replace(options, label_map=self.hard_labels))
        if format not in ("", "coco"):
            raise VertebraError(
                f"format is {shown(format)}; {self.description} are written as PNG files, with 'coco' as polygons too, "
                f"or for annotation tools as {', '.join(known)}."
            )

        def record(prediction: Prediction) -> dict[str, Any]:
            return self.record(prediction, options.classes, top)

        def map_of(prediction: Prediction) -> Image.Image:
            return self.to_image(prediction, len(options.classes))

        writer = MapsWriter(folder, record, self.row, map_of)
        return RegionsWriter(writer, options.classes, self.hard_labels) if format else writer

    def answers(
        self,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        labels: Sequence[int] = (),
        point: tuple[int, int] | None = None,
        top: int = 1,
        **_: Any,
    ) -> list[Answer]:
        """The class of the pixel, or the classes with most pixels, in all of theirs; a class without any is explained
        in all pixels of the image."""
        predicted = self.hard_labels(prediction)
        if point is not None:
            x, y = point
            centre = torch.tensor([[x + 0.5, y + 0.5]])
            chosen = labels or [int(predicted[y, x])]
            return [Answer(f"{classes[label]} at {x}, {y}", label, points=centre) for label in chosen]
        counts = torch.bincount(predicted.flatten().int(), minlength=len(classes))[: len(classes)].tolist()
        ranked = sorted(labels or range(len(classes)), key=lambda label: -counts[label])
        answers = []
        for label in ranked[: len(labels) or top]:
            rows, columns = torch.nonzero(predicted == label, as_tuple=True)
            points = torch.stack((columns, rows), 1) + 0.5
            name = f"{classes[label]} {counts[label] / predicted.numel():.1%}"
            answers.append(Answer(name, label, points=points if len(points) else None))
        return answers

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        if evaluation.rows and self.row_key in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    # -- `vertebra data`

    def inspect_sample(self, sample: Sample, size: tuple[int, int]) -> tuple[Target, list[str]]:
        """The target with the pixels of each value as `areas` [256] in place of the label map."""
        try:
            target = sample.load_target(size)
        except VertebraError as error:
            return sample.target, [str(error)]
        assert target.semantic is not None
        counts = torch.bincount(target.semantic.flatten().int(), minlength=256)
        problems = [] if counts[:IGNORED].any() else [f"{target.path}: every pixel of its label map is ignored."]
        return replace(target, semantic=None, areas=counts.float()), problems

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        if target.areas is None or other.areas is None or torch.equal(target.areas, other.areas):
            return ""
        return "other label maps"

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """The share of each class in the pixels, and the images that show it, by split; below, the classes that no
        training pixel has."""
        title = escape_markup(f"{catalogue.path} ({catalogue.format}: label maps)")
        table = Table(Column("class", overflow="fold"), title=title, box=SIMPLE_HEAD, collapse_padding=True)
        columns: list[list[str]] = []
        for split in catalogue.splits:
            counts = [t.areas for t in targets.get(split, []) if t.areas is not None]
            stacked = torch.stack(counts) if counts else torch.zeros(0, 256)
            labelled, shown = stacked.sum(0), (stacked > 0).sum(0)
            for column in ("pixels", "images"):
                table.add_column(f"{split}\n{column}", justify="right", no_wrap=True)
            shares = labelled / stacked.sum().clamp(min=1)
            labels = [*range(len(catalogue.classes)), IGNORED]
            columns.append([f"{shares[i]:.2%}" for i in labels])
            columns.append([str(int(shown[i])) for i in labels])
            if split == "train" and (absent := [n for n, x in zip(catalogue.classes, labelled.tolist()) if not x]):
                more = ", ..." if len(absent) > MAX_ABSENT else ""
                names = escape_markup(", ".join(absent[:MAX_ABSENT]))
                many = f"{len(absent)} of {len(catalogue.classes)} classes have"
                table.caption = f"{many} no pixel in train: {names}{more}"
        for i, name in enumerate([*map(escape_markup, catalogue.classes), "(ignored)"]):
            table.add_row(name, *(column[i] for column in columns))
        table.add_section()
        totals = [text for samples in catalogue.splits.values() for text in ("", str(len(samples)))]
        table.add_row("all", *totals)
        return [table]


class ClassMaps(PixelMaps):
    """A class for every pixel: logits [num_classes, ...], and a label map."""

    map_name = "label_map"

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(0)

    def to_logits(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=1e-9).log()

    def decided(self, probabilities: Tensor) -> Tensor:
        return probabilities.argmax(-1).to(torch.uint8)

    def with_map(self, prediction: Prediction, values: Tensor) -> Prediction:
        return replace(prediction, semantic=values)

    def hard_labels(self, prediction: Prediction) -> Tensor:
        assert prediction.semantic is not None
        return prediction.semantic

    def to_image(self, prediction: Prediction, num_classes: int) -> Image.Image:
        """The label map as an indexed image in the colours of the classes."""
        image = Image.fromarray(np.ascontiguousarray(self.hard_labels(prediction).numpy()))
        image.putpalette(maps.palette(num_classes).tobytes())
        return image


def _ramp(side: int) -> Tensor:
    """Weights [side] that rise from the border of a tile to its middle."""
    position = (torch.arange(side) + 0.5) / side
    return (2 * torch.minimum(position, 1 - position)).clamp(min=EDGE)


def target_map(sample: Sample, size: tuple[int, int]) -> Tensor:
    """The label map [H, W] uint8 of a sample whose image has (height, width) `size`."""
    labels = sample.load_target(size).semantic
    assert labels is not None
    return labels
