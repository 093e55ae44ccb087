"""The contract of a kind: all that differs between predicting classes, boxes, masks, keypoints and others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from rich.markup import escape as escape_markup
from rich.table import Column, Table
from torch import Tensor

from vertebra import tasks
from vertebra.data import reading
from vertebra.data.augment import BatchTransform, Transform
from vertebra.data.catalogue import Catalogue, Sample, describe_fields
from vertebra.data.geometry import Example, resize
from vertebra.data.inputs import ImageInputs, Inputs
from vertebra.data.reading import Source
from vertebra.errors import VertebraError, escaped, one_of
from vertebra.images import frame_of, normalise, read_image
from vertebra.kinds import views
from vertebra.kinds.tiles import Tile, grid
from vertebra.kinds.writers import RecordsWriter, Writer, WriterOptions, formats
from vertebra.metrics.evaluation import SHOWN, Evaluation, written
from vertebra.structures import IGNORED, Answer, Instance, KeypointSchema, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import draw
from vertebra.viz.draw import Colour

MAX_ROWS = 1000
"""Classes that a table lists one by one; of more, the most frequent ones."""


@dataclass
class NoAugment:
    """No random changes of training images."""


class Kind:
    """What a task predicts. A module of this folder with `KIND = MyKind()` is a kind, named after its file.

    A kind sets `target_field` and `description` and writes `caption`; it replaces a default below wherever it differs.
    """

    target_field: ClassVar[str]
    """The field of Target that the task learns, such as `boxes`."""
    description: ClassVar[str]
    """The predictions in the plural, for messages: `boxes`, `classes of whole images`."""
    priority: ClassVar[int] = 0
    """Of the kinds that fit a dataset, the one with the highest priority describes it in `vertebra data`."""
    augment: ClassVar[type] = NoAugment
    """Dataclass of the augmentation; its fields are the `--augment` flags of `vertebra train`."""
    no_augment: ClassVar[Any] = NoAugment()
    """The instance of `augment` that changes nothing at random."""
    resize_modes: ClassVar[tuple[str, ...]] = ("squash", "shortest", "fit")
    """Values of Preprocess.resize that the kind supports, the default first."""
    balancing: ClassVar[frozenset[str]] = frozenset()
    """Options of the model that `model_options` sets to balance uneven classes."""
    reads_images: ClassVar[bool] = True
    """Whether the input is an image."""
    items: ClassVar[str] = "images"
    """What the samples are, in the plural; `Catalogue.items` of the data that it reads."""
    has_classes: ClassVar[bool] = True
    """Whether predictions are of classes."""
    progressive: ClassVar[bool] = False
    """Whether progressive learning is known for it; `eased` makes its augmentation."""
    contents: ClassVar[str] = ""
    """What annotation formats hold of its predictions: `objects`, `tags` or `map`, see `writers`; empty for none."""
    objects: ClassVar[bool] = False
    """Whether objects are predicted, each with a class, a score and a box, as formats such as COCO's hold them."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Options of prediction that apply to the kind, of `top`, `embeddings`, `threshold`, `tile`, `overlap`,
    `annotations`, `crops`, `scores`, `refine`, `detector`, `boxes`; and of explanations, of `point`, `keypoint`."""
    soft_labels: ClassVar[bool] = False
    """Whether `vertebra label` stores probabilities of the classes, of which a student can learn."""
    unlabelled: ClassVar[bool] = False
    """Whether the augmentation takes images without ground truth, for distillation."""
    data: ClassVar[type | None] = None
    """Dataclass of further `--data` flags of `vertebra train`, which `samples` is given and `__post_init__` checks.
    None if there are none."""
    next_command: ClassVar[str] = "vertebra predict {} IMAGE --save=out/"
    """What uses a model once it is trained, with `{}` for its file."""
    instead: ClassVar[str] = ""
    """Of models that cannot predict on images alone: the end of the sentence that says what to do instead."""
    merges_views: ClassVar[bool] = True
    """Whether test-time augmentation merges predictions of views; else the task's `infer` does so, with `merging`."""
    eval_batch_size: ClassVar[int] = 32
    """Default number of images per forward pass in evaluation."""
    tta_scales: ClassVar[tuple[float, ...]] = (1.0,)
    """Factors on the input size for test-time augmentation, where the model accepts any size; empty where inputs have
    no other views."""

    @property
    def name(self) -> str:
        """The name of the kind's file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def fields(self) -> frozenset[str]:
        """Fields of Target to read from the dataset."""
        return frozenset({self.target_field})

    # -- data

    def open(self, path: Source, *, val_share: float = 0.2, seed: int = 0) -> Catalogue:
        """A dataset to train on, with a val split; arguments as for `data.open_data`.

        Raises:
            VertebraError: if it cannot be read, or does not have `target_field`; the sentence lists the tasks that can
                be trained on it.
        """
        return reading.with_val_split(self.read(path, seed=seed), val_share, seed)

    def read(self, path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
        """A dataset with the splits that it has itself; arguments as for `data.reading.read`, errors as for `open`."""
        catalogue = reading.read(path, fields=self.fields, seed=seed, missing_ok=missing_ok)
        self.check_fields(catalogue)
        return catalogue

    def noun(self, samples: Sequence[Any]) -> str:
        """What samples as `samples` makes them are, in the plural."""
        return self.items

    def check_fields(self, catalogue: Catalogue) -> None:
        """Raises VertebraError if the dataset does not fit; the sentence lists the tasks whose kind it fits."""
        if not self.fits(catalogue):
            lacks = (
                f"{catalogue.path} has {describe_fields(catalogue.has, catalogue.items)} but no "
                f"{describe_fields([self.target_field], self.items)}"
            )
            fitting = " or ".join(_fitting_tasks(catalogue))
            raise VertebraError(f"{lacks}: train {fitting} on it." if fitting else f"{lacks}.")

    def fits(self, catalogue: Catalogue) -> bool:
        """Whether the dataset has what the kind reads and what it learns."""
        return catalogue.items == self.items and self.target_field in catalogue.has

    def check(self, preprocess: Preprocess, augment: Any = None) -> None:
        """Raises VertebraError if the preprocessing or the augmentation, None in evaluation, does not suit the kind."""

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: Any = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """The samples of a split that the task learns or is evaluated on: by default its images.

        Args:
            catalogue: as `open` or `read` returned it; gets notes, and problems of samples that are left out.
            split: its name.
            task: the model.
            training: whether they are to be learned.
            seed: of random choices.
            data: an instance of `self.data`, or a dataclass with its fields; its defaults if None.
            load: makes a model of a checkpoint of ours, in eval mode on the device of the run.

        Raises:
            VertebraError: if there are none.
        """
        return catalogue.split(split)

    def inputs(self, preprocess: Preprocess) -> Inputs:
        """How samples enter the network."""
        return ImageInputs(preprocess, self.fields)

    def transform(self, augment: Any, preprocess: Preprocess, keypoints: KeypointSchema | None = None) -> Transform:
        """The augmentation of training examples, with torch's random numbers.

        Args:
            augment: an instance of `self.augment`.
            preprocess: of the model.
            keypoints: the schema of the dataset, so that left and right keypoints are swapped in a mirror image.
        """
        return _Resize(preprocess)

    def eased(self, augment: Any, share: float) -> Any:
        """The augmentation at a share, in 0..1, of the way to `augment`, for a kind that is `progressive`."""
        raise NotImplementedError

    def batch_transform(self, augment: Any, num_classes: int) -> BatchTransform | None:
        """Augmentation that mixes the images of a training batch; None if there is none."""
        return None

    def pad(self, target: Target, size: tuple[int, int]) -> Target:
        """The target of an image that is padded at the bottom and the right to the (height, width) `size` of its batch.

        Boxes, masks and keypoints keep their pixels; a label map is filled with the ignored class.
        """
        if target.semantic is None:
            return target
        padded = target.semantic.new_full(size, IGNORED)
        padded[: target.semantic.shape[0], : target.semantic.shape[1]] = target.semantic
        return replace(target, semantic=padded)

    def labels(self, target: Target) -> Tensor:
        """The classes in a target, [N] or [] int64, as they are counted per class of a dataset."""
        return torch.zeros(0, dtype=torch.int64)

    def check_compatible(self, catalogue: Catalogue, task: Task) -> None:
        """Raises VertebraError if the task cannot be evaluated on the dataset; classes are checked elsewhere."""

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """Options of the model that the dataset decides, such as its keypoints.

        Args:
            catalogue: the training data.
            balance: whether options that balance uneven classes are wanted too.
            data: as for `samples`.

        Raises:
            VertebraError: if they cannot be computed from the dataset.
        """
        return {}

    def metric_options(self, about: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
        """Arguments of `task.metrics`, from the description in the checkpoint and the evaluated dataset."""
        return {}

    # -- predictions

    def flip(self, prediction: Prediction, width: int, keypoints: KeypointSchema | None = None) -> Prediction:
        """The prediction for the horizontally flipped image; `width` is the image's, in pixels."""
        return views.flip(prediction, width, keypoints)

    def merge_views(self, predictions: Sequence[Prediction]) -> Prediction:
        """One Prediction from those of several views of an image, all in its pixels."""
        return views.mean(predictions)

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """How far two predictions for an image agree: how many of their parts are the same, and how many there are.

        By default the numbers that are predicted for the image, which are the same within a hundredth.
        """
        assert prediction.values is not None
        assert other.values is not None
        same = torch.isclose(prediction.values, other.values, rtol=0.01, atol=0.01)
        return int(same.sum()), same.numel()

    def finish(self, prediction: Prediction) -> Prediction:
        """The prediction as it is returned, once its views are merged."""
        return prediction

    def tiles(self, size: tuple[int, int], side: int, overlap: float = 0.2) -> list[Tile]:
        """Overlapping tiles of an image of (height, width) `size`; see `tiles.grid`."""
        return grid(size, side, overlap)

    def merge_tiles(
        self, predictions: Iterable[Prediction], tiles: Sequence[Tile], size: tuple[int, int]
    ) -> Prediction:
        """One Prediction for an image of (height, width) `size` from those of its tiles, each in its tile's pixels.

        Called only if `options` has `tile`.
        """
        raise NotImplementedError

    def filter(self, prediction: Prediction, threshold: float | Sequence[float]) -> tuple[Prediction, int]:
        """The detections whose score reaches the threshold, and the number of the others.

        A threshold per class is that of a checkpoint whose metrics have such, as `thresholds`.
        """
        return prediction, 0

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        """Lines for beneath the image: text, and the length of the bar behind it in 0..1."""
        raise NotImplementedError

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        """The line on the screen for an image, or for all frames of a video."""
        return "  ".join(text for text, _ in self.caption(self.merge_views(predictions), classes, top))

    def draw(
        self,
        image: Tensor,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        keypoints: KeypointSchema | None = None,
        threshold: float = 0.0,
        top: int = 3,
    ) -> Image.Image:
        """The image with the prediction drawn in, or a caption beneath it.

        Args:
            image: [C, H, W] uint8.
            prediction: in pixels of the image.
            classes: names of the classes.
            keypoints: their schema, so that they are joined by lines.
            threshold: detections with a lower score are not drawn.
            top: classes in a caption.
        """
        return draw.captioned(image, self.caption(prediction, classes, top))

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image with the ground truth drawn on it; arguments as for `draw`."""
        return draw.to_image(image)

    def legend(self, targets: Sequence[Target], classes: Sequence[str]) -> list[tuple[str, Colour]]:
        """Name and colour of the classes that `draw_target` draws in some of the targets."""
        return []

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """An image's entry in predictions.json beside `path` and `drawn`: plain JSON."""
        values = [] if prediction.values is None else [round(value, 6) for value in prediction.values.tolist()]
        return {"value": values[0]} if len(values) == 1 else {f"value_{i}": value for i, value in enumerate(values, 1)}

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """An image's line in predictions.csv after `path`, from its record: by default the scalars."""
        return {key: value for key, value in record.items() if not isinstance(value, list | dict)}

    def map_images(self, prediction: Prediction, classes: Sequence[str]) -> dict[str, Image.Image]:
        """The maps in a prediction by name, as images with a pixel for each of theirs; empty if there are none."""
        return {}

    def rows(self, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
        """The prediction as a table: a row per object, or one for the whole image; all have the same columns."""
        return [self.row(self.record(prediction, classes))]

    def to_coco(self, prediction: Prediction, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The COCO result of each object; `category_ids` are those of the classes.

        Raises:
            VertebraError: if the kind has no objects.
        """
        raise VertebraError(f"COCO results are of objects; this model predicts {self.description}.")

    def to_supervision(self, prediction: Prediction, classes: Sequence[str], supervision: Any) -> Any:
        """The prediction in the form of the library `supervision`, which is passed in, as it may not be installed.

        Raises:
            VertebraError: if it has none for the kind.
        """
        raise VertebraError(f"supervision has no form for {self.description}.")

    def crops(self, image: Tensor, prediction: Prediction) -> Iterator[tuple[Instance, Image.Image]]:
        """The objects and their parts of the image [C, H, W], by their boxes; those outside of it are left out.

        Raises:
            VertebraError: if the kind has no objects.
        """
        raise VertebraError(f"crops are of objects; this model predicts {self.description}.")

    def answers(
        self,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        labels: Sequence[int] = (),
        point: tuple[int, int] | None = None,
        keypoint: str = "",
        keypoints: KeypointSchema | None = None,
        top: int = 1,
    ) -> list[Answer]:
        """The answers of a prediction that are explained, in pixels of its image; none if it has no such.

        Args:
            classes: names of the classes.
            labels: classes whose answers are explained; any if empty.
            point: x, y of the pixel whose answer is explained, if `options` has `point`.
            keypoint: name of the keypoint that is explained, if `options` has `keypoint`.
            keypoints: their schema.
            top: most answers.

        Raises:
            VertebraError: if there is no such keypoint, or the kind has no answers that can be explained.
        """
        raise VertebraError(f"{self.description} cannot be explained.")

    def dataset_ids(self, annotations: str | Path, classes: Sequence[str]) -> Any:
        """The ids that a dataset's file gives its images and classes: an object with `of_all(paths) -> list[int]`.

        Called only if `options` has `annotations`.
        """
        raise NotImplementedError

    def writer(self, folder: Path, options: WriterOptions, *, format: str = "", top: int = 3) -> Writer:
        """Writes predictions into files of `folder`.

        Args:
            folder: exists.
            options: of the writer.
            format: one of `writers.formats`; if empty, the first of objects, and of others a record per image.
            top: classes per image, for kinds that rank classes.

        Raises:
            VertebraError: if the kind has no such format.
        """
        known = formats(self.contents)
        if format:
            one_of("format", format, known or ["records"])
        if module := known.get(format or next(iter(known if self.objects else ()), "")):
            return module.writer(folder, options)
        return RecordsWriter(folder, lambda prediction: self.record(prediction, options.classes, top), self.row)

    def labels_writer(self, folder: Path, options: WriterOptions) -> Writer:
        """Writes predictions into `folder`, which exists, as a dataset that models can be trained on.

        Raises:
            VertebraError: if there is no such dataset.
        """
        raise VertebraError(f"no dataset is made of {self.description}: `vertebra predict` writes them as files.")

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        """Sections of the report: heading and HTML of each.

        Args:
            evaluation: its metrics may lack entries that a section needs; the section is left out then.
            samples: those that were evaluated, in that order.
        """
        if evaluation.rows:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def named_row(self, row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        """A row of an evaluation with class names in place of indices."""
        return dict(row)

    def most_wrong(self, evaluation: Evaluation, samples: Sequence[Sample]) -> str:
        """HTML of the images with the largest errors: for each `error_images` over `error_text`."""
        worst = evaluation.worst(SHOWN)
        if not worst:
            return "<p>No image was predicted wrongly.</p>"
        figures = []
        for row in worst:
            try:
                images = self.error_images(evaluation, samples[row["index"]], row)
            except VertebraError as error:  # an image that went missing or was not needed for the evaluation
                images = f'<span class="bad">{escape(str(error))}</span>'
            name = f"<br>{escape(Path(row['path']).name)}" if row["path"] else ""
            wide = ' class="pair"' if images.count("<img") > 1 else ""
            text = self.error_text(row, evaluation.classes)
            figures.append(f"<figure{wide}>{images}<br>{text}{name}</figure>")
        return f'<div class="wrong">{"".join(figures)}</div>'

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        """HTML of one or two images of a wrong prediction, from its row; by default the prediction drawn."""
        from vertebra.viz import plots

        prediction = evaluation.predictions[row["index"]]
        drawn = self.draw(plots.pixels(sample), prediction, evaluation.classes, keypoints=evaluation.keypoints)
        return plots.image(plots.fitted(drawn), f"prediction: {Path(row['path']).name}", format="jpeg")

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        """HTML of a line on a wrong prediction; by default all entries of its row."""
        values = {key: value for key, value in self.named_row(row, classes).items() if key not in ("index", "path")}
        return ", ".join(
            escape(f"{key.replace('_', ' ')} {written(value) if isinstance(value, int | float) else value}")
            for key, value in values.items()
        )

    # -- `vertebra data`

    def content(self, sample: Sample) -> tuple[Any, tuple[int, int] | None]:
        """The bytes or the array by which equal samples are found, and the (height, width) of an image.

        Raises:
            UnreadableImage: if it cannot be read.
        """
        image = read_image(sample.image)
        return np.ascontiguousarray(image), (image.shape[1], image.shape[2])  # no copy, unless grey planes share memory

    def inspect_sample(self, sample: Sample, size: Any) -> tuple[Target, list[str]]:
        """The complete target of an image of (height, width) `size`, and a sentence for everything wrong with it."""
        try:
            return sample.load_target(size), []
        except VertebraError as error:
            return sample.target, [str(error)]

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        """How the targets of two images of the same pixels differ, such as `other objects`; empty if they do not."""
        pairs = [(getattr(target, name), getattr(other, name)) for name in sorted(self.fields)]
        return "" if all(_equal(a, b) for a, b in pairs) else f"other {describe_fields(self.fields)}"

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """What the dataset holds, to be printed.

        Args:
            targets: those of the readable images by split, as `inspect_sample` returned them.
        """
        table = Table(
            Column("", overflow="fold"),
            title=escape_markup(f"{catalogue.path} ({catalogue.format}: {self.description})"),
        )
        for split in catalogue.splits:
            table.add_column(split, justify="right", overflow="fold")
        table.add_row("images", *(str(len(samples)) for samples in catalogue.splits.values()))
        return [table]

    def notes(self, catalogue: Catalogue) -> list[str]:
        """What a user should know before training, such as uneven classes; a sentence each, without a full stop."""
        return []


class _Resize:
    """The example at the size that it has in the input, with everything in its target."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
        resized = resize(example, frame_of(example.size, self.preprocess).resized, self.preprocess)
        return normalise(resized.image, self.preprocess), resized.target


def uneven(catalogue: Catalogue, counts: Sequence[int], unit: str, *, ignore_absent: bool = False) -> str:
    """A note if the counts per class differ by a factor of three or more, else nothing.

    Args:
        catalogue: names the classes.
        counts: of the training images, or of their objects, per class.
        unit: `images` or `objects`.
        ignore_absent: whether classes that do not occur are left out.
    """
    counted = [count for count in counts if count or not ignore_absent]
    if not counted or not max(counted) or max(counted) < 3 * max(1, min(counted)):
        return ""
    rarest = catalogue.classes[counts.index(min(counted))]
    return f"classes are uneven ({min(counted)} to {max(counted)} {unit}, fewest {rarest!r})"


def inverse_frequencies(catalogue: Catalogue, counts: Sequence[int]) -> tuple[float, ...]:
    """A weight per class, inversely proportional to its `counts` of training images; 1 where all are equal.

    Raises:
        VertebraError: if a class has none.
    """
    if 0 in counts:
        raise VertebraError(f"class {catalogue.classes[counts.index(0)]!r} has no training images to balance.")
    return tuple(sum(counts) / (len(counts) * count) for count in counts)


def shorten(name: str, length: int = 40) -> str:
    """A class name, cut to at most `length` characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def class_counts(
    catalogue: Catalogue, labels_of: Callable[[Target], Tensor], one: str, several: str
) -> tuple[Table, dict[str, list[int]]]:
    """A table of how often each class occurs in each split, at the end of a section, and the counts.

    Args:
        catalogue: names the classes.
        labels_of: the classes in a target, as `Kind.labels`.
        one: the word for a class.
        several: the word for classes.
    """
    counts = {split: catalogue.counts(split, labels_of) for split in catalogue.splits}
    table = Table(Column(one, overflow="fold"), title=escape_markup(f"{catalogue.path} ({catalogue.format})"))
    for split in catalogue.splits:
        table.add_column(split, justify="right", overflow="fold")
    listed, others = listed_classes(list(counts.values()))
    for i in listed:
        name = escape_markup(escaped(catalogue.classes[i]))
        table.add_row(name, *(str(of_split[i]) for of_split in counts.values()))
    if others:
        sums = (str(sum(of_split[i] for i in others)) for of_split in counts.values())
        table.add_row(f"{len(others)} rarer {several}", *sums)
    table.add_section()
    return table, counts


def listed_classes(counts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The classes that a table has rows for, and those that share its last row.

    Args:
        counts: per split, the count of each class.
    """
    totals = [sum(of_class) for of_class in zip(*counts, strict=True)]
    if len(totals) <= MAX_ROWS:
        return list(range(len(totals))), []
    order = sorted(range(len(totals)), key=lambda i: -totals[i])
    return sorted(order[:MAX_ROWS]), sorted(order[MAX_ROWS:])


def _fitting_tasks(catalogue: Catalogue) -> list[str]:
    """The tasks that can learn from the dataset."""
    from vertebra import kinds  # which imports this module

    kind_of = {name: kinds.find(tasks.find(name).MODEL.kind) for name in tasks.names()}
    fitting = [name for name, kind in kind_of.items() if kind.fits(catalogue)]
    return sorted(fitting, key=lambda name: (kind_of[name].priority, name))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is None and b is None
