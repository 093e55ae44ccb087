"""A checkpoint and images to Predictions."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vertebra import export, kinds
from vertebra.engine.devices import find_one
from vertebra.errors import VertebraError, escaped, in_range, one_of, shown
from vertebra.export import formats
from vertebra.images import UnreadableImage, as_list, frame_of, pad_batch, padded_size, prepare, read_image
from vertebra.kinds import Kind
from vertebra.nn.fold import fold
from vertebra.predict import compiled, engines, sources
from vertebra.predict.result import ImageResult
from vertebra.structures import Frame, KeypointSchema, Prediction, Preprocess, Region
from vertebra.tasks import Task
from vertebra.tasks.text_task import TextTask

if TYPE_CHECKING:
    from vertebra.export.certificate import Certificate
    from vertebra.refine import Refiner

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "int8": None}
"""Number format of convolutions and matrix products, by the names that training has for it; `int8` is for engines that
run exported programs."""
MIN_BOX_SCORE = 0.05
"""Least score of a detector's boxes whose objects are evaluated, as in COCO results."""
DEFAULT_THRESHOLD = 0.5
"""Score threshold of models whose checkpoint has none."""
BATCHES_AHEAD = 4
"""Batches of images read ahead to find images of equal input size, where sizes differ."""
CPU_PIXELS = 10 * 224 * 224
"""Most pixels of a batch on a CPU; one image may have more. Larger batches take memory and are not faster there."""
PIXELS_AHEAD = 64_000_000
"""Most pixels read ahead; one image may have more."""


@dataclass(frozen=True)
class _Options:
    """The arguments of `Predictor.predict`."""

    batch_size: int
    threshold: float | Sequence[float]
    tile: int
    overlap: float
    tta: bool
    every: int
    endless: bool
    """Whether sources without an end are allowed."""
    counter: _Counter


@dataclass
class _Counter:
    """Detections of one call with a score below the threshold."""

    below: int = 0


@dataclass
class _Read:
    """An image that was read."""

    source: Any
    """An ImageSource or VideoFrame; None if it could not be read."""
    image: Tensor | UnreadableImage
    """[C, H, W] uint8 as the model takes it."""
    urgent: bool = False
    """Whether the prediction must not wait for further images."""


class Predictor:
    """A trained model made fast: batch norm folded into the convolutions, channels-last memory, fused operators.

    Its predictions equal the trained model's up to rounding. It can no longer be trained; for that, create a model
    with `vertebra.create(..., weights=path)`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | None = None,
        precision: str = "32-true",
        engine: str | None = None,
        refine: str | Path | Refiner | None = None,
        detector: str | Path | Predictor | None = None,
        head: str | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """See `vertebra.load`."""
        one_of("precision", precision, PRECISIONS)
        self.checkpoint = path
        """What was loaded; an exported file if that was given."""
        self.adjusted = dict(model or {})
        """Options of the model in place of those that it was trained with."""
        self.precision = precision
        """Number format of the computation, a name of PRECISIONS."""
        self.exported = export.is_exported(path)
        """Whether the model is an exported program, in the precision of its file."""
        for name, value in (("precision", None if precision == "32-true" else precision), ("engine", engine)):
            if self.exported and value is not None:
                raise VertebraError(f"{name} is {value}; {path} is exported, which fixed it: leave it out.")
        if head is not None and engine not in (None, "folded", "eager"):
            raise VertebraError(f"engine is {engine}, which a head has once `vertebra export --head={head}` saved it.")
        if model and engine not in (None, "folded", "eager", *engines.COMPILED):
            raise VertebraError(
                f"engine is {engine}, whose programs have the options that the model was trained with: leave out the "
                f"engine, or {', '.join(model)}."
            )
        self.engine, self.precision = self._chosen_engine(path, engine, device)
        """What computes the outputs: a name of `engines.ENGINES`, or the format of an exported file."""
        if self.engine in formats.names() and not self.exported:
            path, self.exported = engines.exported(path, self.engine, self.precision), True
        self.task, self.about = export.open_model(path, device=device, head=head, model=model)
        if self.engine in ("folded", *engines.COMPILED):
            fold(self.task)
        if self.engine in engines.COMPILED:
            if isinstance(self.task, TextTask):
                raise VertebraError(f"engine is {self.engine}; models that read texts have folded and eager.")
            compiled.install(self.task, frozen=self.engine == "frozen")
        if not self.exported:
            self.task.to(memory_format=torch.channels_last)
        self.device = self.task.device
        if precision == "16-mixed" and self.device.type == "cpu":
            raise VertebraError("precision 16-mixed is for GPUs; on a CPU choose bf16-mixed.")
        self._counter = _Counter()
        self.refiner = None if refine is None else self._refiner(refine)
        """Refines the masks of predictions, if there is one."""
        self.detector = None if detector is None else self._detector(detector)
        """Finds the objects of images whose keypoints are predicted, if there is one."""

    @classmethod
    def of(cls, task: Task, about: Mapping[str, Any], *, precision: str, engine: str) -> Predictor:
        """The Predictor of a model that `engine` computes already, on its device, and of its description."""
        made = cls.__new__(cls)
        made.task, made.about, made.device = task, dict(about), task.device
        made.precision, made.engine, made.exported, made.adjusted = precision, engine, False, {}
        made.refiner = made.detector = None
        made._counter = _Counter()
        return made

    def _chosen_engine(self, path: Any, engine: str | None, device: str | None) -> tuple[str, str]:
        """The engine by its name, for `auto` the fastest, and its precision."""
        if self.exported:
            return str(formats.of_file(path)), self.precision
        engine = "folded" if engine is None else engine
        one_of("engine", engine, engines.ENGINES)
        if engine == "auto" and find_one(device).type == "cpu":  # elsewhere, exported programs do not run
            return engines.fastest(path, self.precision)
        engine = "folded" if engine == "auto" else engine
        if self.precision == "int8" and engine not in engines.EXPORTED:
            raise VertebraError(
                f"precision int8 is for engines {', '.join(engines.EXPORTED)} and, on a CPU, auto, not for {engine}."
            )
        return engine, self.precision

    @property
    def _other_precision(self) -> str:
        """Of the models beside this one, which PyTorch computes."""
        return "32-true" if self.precision == "int8" else self.precision

    def _refiner(self, refine: str | Path | Refiner) -> Refiner:
        from vertebra.refine import Refiner  # which needs torchvision

        kinds.check_option("refine", self.task)
        if not isinstance(refine, Refiner):
            refine = Refiner(Predictor(refine, device=str(self.device), precision=self._other_precision).task)
        if refine.channels != self.task.preprocess.channels:
            raise VertebraError(
                f"the refinement network takes images of {refine.channels} channels, the model "
                f"{self.task.preprocess.channels}."
            )
        return refine

    def _detector(self, detector: str | Path | Predictor) -> Predictor:
        kinds.check_option("detector", self.task)
        if not isinstance(detector, Predictor):
            detector = Predictor(detector, device=str(self.device), precision=self._other_precision)
        if not detector.kind.objects or "detector" in detector.kind.options:
            raise VertebraError(
                f"detector is a model that predicts {detector.kind.description}; one that predicts boxes is needed."
            )
        if detector.task.preprocess.channels != self.task.preprocess.channels:
            raise VertebraError(
                f"the detector takes images of {detector.task.preprocess.channels} channels, the model "
                f"{self.task.preprocess.channels}."
            )
        if not set(detector.classes) & set(self.classes):
            raise VertebraError(
                f"the detector has no class {' or '.join(map(shown, self.classes))}; it has "
                f"{', '.join(map(escaped, detector.classes))}."
            )
        return detector

    @property
    def kind(self) -> Kind:
        """What the predictions are: boxes, classes of whole images, ..."""
        return kinds.find(self.task.kind)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of labels and probabilities."""
        return self.task.classes

    @property
    def keypoints(self) -> KeypointSchema | None:
        """The keypoints of every object; None if the task predicts none."""
        return self.task.keypoints

    @property
    def threshold(self) -> float:
        """Default score threshold: the one with the best F1 in the checkpoint's evaluation, else 0.5."""
        measured = self.measured_threshold
        return DEFAULT_THRESHOLD if measured is None else measured

    @property
    def measured_threshold(self) -> float | None:
        """Score threshold with the best F1 in the checkpoint's evaluation; None if it has none."""
        measured = (self.about.get("metrics") or {}).get("threshold")
        return None if measured is None else float(measured)

    @property
    def class_thresholds(self) -> tuple[float, ...] | None:
        """Of each class, the threshold with the best F1 in the checkpoint's evaluation, for models that predict several
        classes per image; None if it has none."""
        measured = (self.about.get("metrics") or {}).get("thresholds")
        return None if measured is None else tuple(map(float, measured))

    @property
    def below_threshold(self) -> int:
        """Detections that the latest call of `predict` or `stream` has dropped so far, because their score is below
        the threshold."""
        return self._counter.below

    def raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the task's `forward` for a normalised batch [B, C, H, W] float32."""
        with torch.inference_mode(), self.autocast():
            outputs: tuple[Tensor, ...] = self.task(self.to_device(images))
        return outputs

    def export(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        precision: str = "fp32",
        data: str | None = None,
        split: str = "val",
        min_agreement: float | None = None,
        max_drop: float = 0.01,
        calibration_images: int | None = None,
    ) -> Certificate:
        """Writes the model as a program that other engines run, and that `vertebra.load` reads again, once its
        predictions are compared with the model's.

        Args:
            path: of the file, with the ending of its format: `.onnx`, `.xml` (OpenVINO, with a `.bin` beside it) or
                `.pt2` (torch.export).
            format: `onnx`, `openvino` or `pt2`; by the ending of `path` if None.
            precision: of the program: `fp32`, or `int8` by post-training quantisation; of OpenVINO's also `bf16` and
                `fp16`.
            data: of the images to compare on; if None the data that the model was validated on, where it is still
                there, else drawn images.
            split: of the data.
            min_agreement: least share that agrees, 0..1; if None 0.99, 0.95 in half precision, 0.9 in int8
                where the images have no ground truth, else 0.
            max_drop: largest drop of the task's first metric, where the images have ground truth.
            calibration_images: of `int8`, number of images of the training part of the data on which the ranges of
                values are measured; 300 if None.

        Returns:
            The certificate, which the file holds too.

        Raises:
            VertebraError: if the model cannot be exported, a package is not installed, the file cannot be written, or
                its predictions differ by more than is allowed; no file is left then.
        """
        if self.exported:
            raise VertebraError("an exported model cannot be exported again: load the checkpoint that it is from.")
        if self.device.type != "cpu" or self.precision != "32-true":
            raise VertebraError('a model is exported on the CPU in float32: vertebra.load(..., device="cpu").')
        return export.export(
            self.task,
            path,
            about=self.about,
            format=format,
            precision=precision,
            data=data,
            split=split,
            min_agreement=min_agreement,
            max_drop=max_drop,
            calibration_images=calibration_images,
        )

    def autocast(self) -> torch.autocast:
        """The context in which the model computes."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def to_device(self, images: Tensor) -> Tensor:
        """A batch [B, C, H, W] as the model takes it."""
        if self.exported:
            return images.contiguous()  # as programs take them
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 16,
        threshold: float | None = None,
        tile: int = 0,
        overlap: float = 0.2,
        tta: bool = False,
        every: int = 1,
    ) -> list[ImageResult]:
        """Predictions for one image or a sequence of images, in order.

        Args:
            images: PIL image, array [H, W, C] or tensor [C, H, W] (uint8, or floats in 0..1), path of an image, a
                folder or a video, pattern, URL, list file, a sequence of these, or a tensor [B, C, H, W].
            batch_size: most images per forward pass; on a CPU fewer if they are large. It does not change the
                predictions.
            threshold: detections with a lower score are dropped, 0..1; None takes `self.threshold`, or
                `self.class_thresholds` if there are such. `below_threshold` counts them.
            tile: images with a longer side are cut into square tiles of this side in pixels, whose detections are
                merged; 0 predicts on whole images.
            overlap: smallest share of a tile's side that neighbouring tiles have in common, above 0 and up to 0.5;
                one tile at least sees the whole of an object smaller than that.
            tta: test-time augmentation: predict also on the mirrored image, and on smaller and larger ones where the
                kind of prediction and the backbone allow it, and merge the predictions.
            every: of videos, every N-th frame is used.

        Raises:
            VertebraError: if an image cannot be read (`stream` yields the error instead), one of the sources has no
                end, or an argument is out of its range or does not apply to the task.
        """
        self._check_kind()
        options = self.checked(batch_size, threshold, tile, overlap, tta, every, endless=False)
        predictions = []
        for prediction in self._stream(images, options):
            if isinstance(prediction, UnreadableImage):
                raise prediction
            predictions.append(prediction)
        return predictions

    def predict_texts(self, texts: Iterable[str], *, batch_size: int = 32) -> Iterator[Prediction]:
        """For each text in turn its prediction, with the `alignment` that says where the model looks.

        Args:
            texts: any number, read a batch ahead.
            batch_size: texts per forward pass.

        Raises:
            VertebraError: if the model reads no texts, or one is no text, empty or too long.
        """
        task = self._text_task()
        in_range("batch_size", batch_size, 1)
        if isinstance(texts, str):
            raise VertebraError("texts is one text; give a sequence of them, such as [text].")
        if not isinstance(texts, Iterable):
            raise VertebraError(f"texts is {shown(texts)}; give a sequence of texts, such as [text].")
        return iter(task.predict_texts(texts, batch_size=batch_size))

    def translate(self, sentences: Iterable[str], *, batch_size: int = 32) -> Iterator[Prediction]:
        """As `predict_texts`, of a model for translation."""
        return self.predict_texts(sentences, batch_size=batch_size)

    def check_text(self, text: str, name: str) -> None:
        """Raises VertebraError if the model reads no texts, or not this one, which `name` names."""
        self._text_task().text_ids(text, name)

    def _text_task(self) -> TextTask:
        if not isinstance(self.task, TextTask):
            raise VertebraError(f"a model for {self.task.task_name} reads images: give them to `predict`.")
        return self.task

    def stream(
        self,
        images: Any,
        *,
        batch_size: int = 1,
        threshold: float | None = None,
        tile: int = 0,
        overlap: float = 0.2,
        tta: bool = False,
        every: int = 1,
    ) -> Iterator[ImageResult | UnreadableImage]:
        """For each image, and each frame of a video, in turn its prediction, or the error if it cannot be read.

        Images are read as they are needed, a few batches ahead. Cameras (by their index, such as 0) and network
        streams (`rtsp://...`) have no end; a frame can be drawn until the next one is read. Of frames that come faster
        than they are processed, the newest is used. Other arguments and errors as in `predict`; `images` may be any
        iterable.
        """
        self._check_kind()
        return self._stream(images, self.checked(batch_size, threshold, tile, overlap, tta, every, endless=True))

    def merged(
        self, *, tile: int = 0, overlap: float = 0.2, tta: bool = False
    ) -> Callable[[Tensor, Region | None], Prediction]:
        """A function that predicts on an image [C, H, W] uint8, or a region of it, from tiles or views of it, with any
        score, as evaluation needs it; arguments and errors as in `predict`."""
        if tta and not self.kind.tta_scales:
            what = self.kind.description if self.kind.reads_images else self.kind.items
            raise VertebraError(f"tta has no effect on {what}: leave it out.")
        options = self.checked(1, 0.0 if self.kind.objects else None, tile, overlap, tta, 1, endless=False)

        def predict(image: Tensor, region: Region | None = None) -> Prediction:
            if tile and max(image.shape[1:]) > tile:
                return self._refined(image, self._tiled(image, options)[0])
            regions = None if region is None else [region]
            ((prediction, _),) = self._augmented([image], options, merging=tta, regions=regions)
            return self._refined(image, self.kind.finish(prediction))

        return predict

    def _refined(self, image: Tensor, prediction: Prediction) -> Prediction:
        """The final prediction for an image [C, H, W] uint8."""
        if self.refiner is None:
            return prediction
        with self.autocast():
            return self.refiner(image, prediction)

    def checked(
        self,
        batch_size: int,
        threshold: float | None,
        tile: int = 0,
        overlap: float = 0.2,
        tta: bool = False,
        every: int = 1,
        *,
        endless: bool,
    ) -> _Options:
        """The arguments of `predict` or `stream`, checked; begins to count anew."""
        if threshold is not None:
            kinds.check_option("threshold", self.task)
        if tile:
            kinds.check_option("tile", self.task)
        in_range("batch_size", batch_size, 1)
        in_range("every", every, 1)
        in_range("threshold", threshold, 0, 1)
        if tile < 0 or 0 < tile < 16:
            raise VertebraError(f"tile is {tile}; it must be 16 pixels or more, or 0 for whole images.")
        if not 0 < overlap <= 0.5:
            raise VertebraError(f"overlap is {overlap}; it must be above 0 and 0.5 at most.")
        known = next(value for value in (threshold, self.class_thresholds, self.threshold) if value is not None)
        self._counter = _Counter()
        return _Options(batch_size, known, tile, overlap, tta, every, endless, self._counter)

    def _check_kind(self) -> None:
        """Raises if the model cannot predict on images alone."""
        if self.kind.instead:
            raise VertebraError(f"a model for {self.task.task_name} {self.kind.instead}.")

    def _stream(self, images: Any, options: _Options) -> Iterator[ImageResult | UnreadableImage]:
        for waiting in self.read_ahead(images, options):
            yield from self._predictions(waiting, options)

    def read_ahead(self, images: Any, options: _Options) -> Iterator[list[_Read]]:
        """Images and frames as they are read, in groups that are predicted on together."""
        ahead = options.batch_size
        if ahead > 1 and self.task.preprocess.resize == "shortest":  # else all inputs have one size
            ahead *= BATCHES_AHEAD
        waiting: list[_Read] = []
        pixels = 0
        for item in self._read(images, options):
            waiting.append(item)
            pixels += 0 if isinstance(item.image, UnreadableImage) else item.image.shape[1] * item.image.shape[2]
            if len(waiting) == ahead or pixels > PIXELS_AHEAD or item.urgent:
                yield waiting
                waiting, pixels = [], 0
        yield waiting

    def _read(self, images: Any, options: _Options) -> Iterator[_Read]:
        """Every image and frame, or the error if it cannot be read."""
        several = isinstance(images, Iterable) and not isinstance(images, str | np.ndarray | Tensor)
        for word in images if several else as_list(images):
            try:
                for source in sources.expand(word):
                    yield from self._read_source(source, options)
            except UnreadableImage as error:  # the word stands for nothing
                yield _Read(None, error)

    def _read_source(self, source: sources.Source, options: _Options) -> Iterator[_Read]:
        channels = self.task.preprocess.channels
        try:
            if isinstance(source, sources.VideoSource):
                if source.live and not options.endless:
                    raise VertebraError(f"{source.name} has no end: use `stream`, which yields as it goes.")
                for frame, pixels in source.frames(options.every):
                    yield _Read(frame, read_image(pixels, channels), urgent=source.live)
            else:
                fetched = source.fetch()
                yield _Read(fetched, fetched.read(channels))
        except UnreadableImage as error:  # the frames before it count
            yield _Read(None, error)

    def _predictions(self, waiting: Sequence[_Read], options: _Options) -> Iterator[ImageResult | UnreadableImage]:
        images = {i: item.image for i, item in enumerate(waiting) if isinstance(item.image, Tensor)}
        whole = [i for i, image in images.items() if not options.tile or max(image.shape[1:]) <= options.tile]
        finished = (
            (self.kind.finish(prediction), below)
            for prediction, below in self._augmented([images[i] for i in whole], options, merging=options.tta)
        )
        results = dict(zip(whole, finished, strict=True))
        for i, item in enumerate(waiting):
            if isinstance(item.image, UnreadableImage):
                yield item.image
                continue
            prediction, below = results.pop(i) if i in results else self._tiled(item.image, options)
            options.counter.below += below
            yield ImageResult.of(self._refined(item.image, prediction), self.task, item.source, item.image)

    def finished(self, prediction: Prediction, item: _Read, options: _Options) -> ImageResult:
        """What is returned of the prediction for a whole image, as `infer` gives it."""
        assert isinstance(item.image, Tensor)
        kept, below = self.kind.filter(prediction, options.threshold)
        options.counter.below += below
        return ImageResult.of(self.kind.finish(kept), self.task, item.source, item.image)

    def summarize(self, predictions: Sequence[Prediction], top: int) -> str:
        """The predictions for one image, or for the frames of a video, in a line."""
        return self.kind.summarize(predictions, self.classes, top)

    def _tiled(self, image: Tensor, options: _Options) -> tuple[Prediction, int]:
        size = (image.shape[1], image.shape[2])
        tiles = self.kind.tiles(size, options.tile, options.overlap)
        below = 0

        def predictions() -> Iterator[Prediction]:
            nonlocal below
            for start in range(0, len(tiles), options.batch_size):
                boxes = [tile.box for tile in tiles[start : start + options.batch_size]]
                crops = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in boxes]
                for prediction, count in self._augmented(crops, options, merging=True):
                    yield prediction
                    below += count

        return self.kind.merge_tiles(predictions(), tiles, size), below

    def _augmented(
        self,
        images: Sequence[Tensor],
        options: _Options,
        *,
        merging: bool,
        regions: Sequence[Region] | None = None,
    ) -> list[tuple[Prediction, int]]:
        """For images [C, H, W] uint8 their predictions, merged over the views of test-time augmentation if any, and
        the number of detections below the threshold, in the view with most of them."""
        if not (options.tta and self.kind.merges_views):
            return self._infer(images, self.task.preprocess, options, merging, regions)
        mirrored = [image.flip(-1) for image in images]
        views: list[list[tuple[Prediction, int]]] = []
        for scale in self.kind.tta_scales if self.task.any_size else (1.0,):
            preprocess = _scaled(self.task.preprocess, scale)
            views.append(self._infer(images, preprocess, options, merging))
            flipped = self._infer(mirrored, preprocess, options, merging)
            views.append(
                [
                    (self.kind.flip(prediction, image.shape[2], self.keypoints), below)
                    for image, (prediction, below) in zip(images, flipped, strict=True)
                ]
            )
        return [
            (self.kind.merge_views([prediction for prediction, _ in view]), max(below for _, below in view))
            for view in zip(*views, strict=True)
        ]

    def _infer(
        self,
        images: Sequence[Tensor],
        preprocess: Preprocess,
        options: _Options,
        merging: bool,
        regions: Sequence[Region] | None = None,
    ) -> list[tuple[Prediction, int]]:
        """For images [C, H, W] uint8, or a region of each, the detections that reach the threshold, and the number of
        the others."""
        if self.detector is None or regions is not None:
            predictions = self._inferred(images, preprocess, options, merging, regions)
        else:
            predictions = self._of_objects(images, preprocess, options, merging)
        return [self.kind.filter(prediction, options.threshold) for prediction in predictions]

    def _inferred(
        self,
        images: Sequence[Tensor],
        preprocess: Preprocess,
        options: _Options,
        merging: bool,
        regions: Sequence[Region] | None,
    ) -> list[Prediction]:
        results: dict[int, Prediction] = {}
        for indices, batch, frames in batches(images, preprocess, options.batch_size, self.device, regions):
            with torch.inference_mode(), self.autocast():
                predictions = self.task.infer(self.to_device(batch), frames, merging=merging)
            results.update(zip(indices, predictions, strict=True))
        return [results[i] for i in range(len(images))]

    def _of_objects(
        self, images: Sequence[Tensor], preprocess: Preprocess, options: _Options, merging: bool
    ) -> list[Prediction]:
        """For images [C, H, W] uint8 the prediction on the objects that the detector finds, those of several images in
        a batch."""
        assert self.detector is not None
        labels = {i: self.classes.index(name) for i, name in enumerate(self.detector.classes) if name in self.classes}
        least = None if options.threshold else MIN_BOX_SCORE
        owners: list[int] = []
        regions: list[Region] = []
        detections = self.detector.predict(list(images), batch_size=options.batch_size, threshold=least)
        for i, detected in enumerate(detections):
            for region in detected.regions():
                if (label := labels.get(region.label)) is not None:
                    owners.append(i)
                    regions.append(replace(region, label=label))
        predictions = self._inferred([images[i] for i in owners], preprocess, options, merging, regions)
        merged = []
        for i, image in enumerate(images):
            objects = [prediction for prediction, owner in zip(predictions, owners, strict=True) if owner == i]
            merged.append(self.task.merge_objects(objects, (image.shape[1], image.shape[2])))
        return merged

    def embed(self, images: Any, *, batch_size: int = 16) -> Tensor:
        """The backbone's pooled features of images, as `predict` takes them: -> [N, width] float32 on the CPU.

        Raises:
            VertebraError: if an image cannot be read, or the task has no such features.
        """
        preprocess = self.task.preprocess
        items = self._read(images, self.checked(batch_size, None, 0, 0.2, False, 1, endless=False))
        embeddings: list[Tensor] = []
        while group := list(itertools.islice(items, batch_size)):
            chunk: list[Tensor] = []
            for item in group:
                if isinstance(item.image, UnreadableImage):
                    raise item.image
                chunk.append(item.image)
            rows: dict[int, Tensor] = {}
            for indices, batch, _ in batches(chunk, preprocess, batch_size, self.device):
                with torch.inference_mode(), self.autocast():
                    rows.update(zip(indices, self.task.embed(self.to_device(batch)).float().cpu(), strict=True))
            embeddings += [rows[i] for i in range(len(chunk))]
        return torch.stack(embeddings)


def batches(
    images: Sequence[Tensor],
    preprocess: Preprocess,
    batch_size: int,
    device: torch.device,
    regions: Sequence[Region] | None = None,
) -> Iterator[tuple[list[int], Tensor, list[Frame]]]:
    """Images [C, H, W] uint8, or a region of each, as batches [B, C, H, W] float32, with the images' indices and
    frames.

    A batch holds images that have one input size by themselves, so that no image is padded because of another:
    padding enters the statistics of group norm, and features at the border. `device` is that of the model.
    """
    shown_parts = [None] * len(images) if regions is None else regions
    frames = [
        frame_of((image.shape[1], image.shape[2]), preprocess, region)
        for image, region in zip(images, shown_parts, strict=True)
    ]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, frame in enumerate(frames):
        groups[padded_size([frame.resized], preprocess)].append(i)
    for (height, width), members in groups.items():
        step = _limited(batch_size, height * width, device)
        for start in range(0, len(members), step):
            indices = members[start : start + step]
            batch = pad_batch([prepare(images[i], preprocess, frames[i].region) for i in indices], preprocess)
            yield indices, batch, [frames[i] for i in indices]


def usual_batch_size(task: Task, *, stream: bool = False) -> int:
    """Images per forward pass: 16, on a CPU fewer if they are large, or one if results of a `stream` are awaited."""
    if stream and task.device.type == "cpu":
        return 1
    height, width = task.preprocess.size
    return _limited(16, height * width, task.device)


def _limited(batch_size: int, pixels: int, device: torch.device) -> int:
    """The batch size for images of `pixels` each, which on a CPU is limited by CPU_PIXELS."""
    return min(batch_size, max(1, CPU_PIXELS // pixels)) if device.type == "cpu" else batch_size


def _scaled(preprocess: Preprocess, scale: float) -> Preprocess:
    """The preprocessing with a smaller or larger input; fixed sizes stay multiples of the divisor."""
    if scale == 1:
        return preprocess
    unit = 1 if preprocess.resize == "shortest" else preprocess.divisor
    height, width = (max(unit, round(side * scale / unit) * unit) for side in preprocess.size)
    return replace(preprocess, size=(height, width))
