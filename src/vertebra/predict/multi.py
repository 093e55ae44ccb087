"""A checkpoint of several heads and images to the predictions of all heads, from one pass through their backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, one_of
from vertebra.files import expanded
from vertebra.images import UnreadableImage
from vertebra.nn.fold import fold
from vertebra.predict.folder import PredictionFolder
from vertebra.predict.predictor import PRECISIONS, Predictor, batches
from vertebra.predict.result import ImageResult
from vertebra.predict.sources import Source
from vertebra.structures import Prediction

ENGINES = ("folded", "eager")
"""What can compute several heads at once."""


class MultiResult(dict[str, ImageResult]):
    """The predictions of all heads for one image, by the name of the head."""

    @property
    def first(self) -> ImageResult:
        return next(iter(self.values()))

    @property
    def source(self) -> Any:
        """Where the image comes from."""
        return self.first.source

    @property
    def path(self) -> str:
        """The name of the image."""
        return self.first.path

    @property
    def id(self) -> int | None:
        """The image's number in a dataset."""
        return self.first.id

    @id.setter
    def id(self, number: int | None) -> None:
        for result in self.values():
            result.id = number

    def without_maps(self) -> MultiResult:
        """As `ImageResult.without_maps`."""
        return MultiResult((name, result.without_maps()) for name, result in self.items())

    def to_dict(self, *, top: int = 5) -> dict[str, Any]:
        """As JSON takes it: the path, and what `ImageResult.to_dict` gives of each head."""
        return {"path": self.path, "heads": {name: result.to_dict(top=top) for name, result in self.items()}}


class MultiPredictor:
    """Several trained heads over one backbone, made fast for prediction as in `Predictor`.

    Args:
        path: the checkpoint.
        device, precision: as in `vertebra.load`.
        engine: `folded` (as for None) or `eager`.

    Raises:
        VertebraError: if the file is damaged or has no heads, or an argument is none of these.
    """

    def __init__(
        self, path: str | Path, *, device: str | None = None, precision: str = "32-true", engine: str | None = None
    ) -> None:
        one_of("precision", precision, PRECISIONS)
        if precision == "int8":
            raise VertebraError("precision int8 is for one head, once `vertebra export --head=NAME` has taken it out.")
        engine = engine or ENGINES[0]
        if engine not in ENGINES:
            raise VertebraError(
                f"engine is {engine!r}; several heads at once are computed by {' or '.join(ENGINES)}: for another one, "
                "take a head out with `vertebra export --head=NAME`."
            )
        self.task, self.about = checkpoint.load_heads(path, device=device)
        if engine == "folded":
            fold(self.task)
        self.task.to(memory_format=torch.channels_last)
        if precision == "16-mixed" and self.task.device.type == "cpu":
            raise VertebraError("precision 16-mixed is for GPUs; on a CPU choose bf16-mixed.")
        about = self.about["heads"]
        self.heads = {
            name: Predictor.of(self.task.take_out(name), about[name], precision=precision, engine=engine)
            for name in self.task.heads
        }
        """The Predictor of each head, by which that head alone is asked."""
        for name, head in self.heads.items():
            if head.kind.instead:
                raise VertebraError(f"head {name!r} {head.kind.instead}.")

    @property
    def device(self) -> torch.device:
        return self.reader.device

    @property
    def reader(self) -> Predictor:
        """The one that reads the images: their preprocessing is that of all heads."""
        return next(iter(self.heads.values()))

    @property
    def below_threshold(self) -> int:
        """Detections of all heads that the latest call has dropped so far because of their score."""
        return sum(head.below_threshold for head in self.heads.values())

    def __call__(self, images: Any, **options: Any) -> list[MultiResult]:
        return self.predict(images, **options)

    def predict(
        self, images: Any, *, batch_size: int = 16, threshold: float | None = None, every: int = 1
    ) -> list[MultiResult]:
        """For one image or a sequence of images, in order, the predictions of all heads.

        Args:
            images: as `Predictor.predict` takes them.
            batch_size: most images per forward pass.
            threshold: detections with a lower score are dropped, 0..1, of the heads that predict such; the threshold of
                each of them if None.
            every: of videos, every N-th frame is used.

        Raises:
            VertebraError: if an image cannot be read (`stream` yields the error instead), or an argument is out of its
                range.
        """
        results = []
        for result in self._stream(images, batch_size, threshold, every, endless=False):
            if isinstance(result, UnreadableImage):
                raise result
            results.append(result)
        return results

    def stream(
        self, images: Any, *, batch_size: int = 1, threshold: float | None = None, every: int = 1
    ) -> Iterator[MultiResult | UnreadableImage]:
        """For each image, and each frame of a video, in turn the predictions of all heads, or the error if it cannot be
        read; arguments and sources without an end as in `Predictor.stream`."""
        return self._stream(images, batch_size, threshold, every, endless=True)

    def _stream(
        self, images: Any, batch_size: int, threshold: float | None, every: int, *, endless: bool
    ) -> Iterator[MultiResult | UnreadableImage]:
        scored = [name for name, head in self.heads.items() if "threshold" in head.kind.options]
        if threshold is not None and not scored:
            raise VertebraError("threshold is for heads that predict objects or tags, and there is none.")
        options = {
            name: head.checked(batch_size, threshold if name in scored else None, every=every, endless=endless)
            for name, head in self.heads.items()
        }

        def results() -> Iterator[MultiResult | UnreadableImage]:
            for waiting in self.reader.read_ahead(images, next(iter(options.values()))):
                pixels = [item.image for item in waiting if isinstance(item.image, Tensor)]
                predictions = iter(self._infer(pixels, batch_size))
                for item in waiting:
                    if isinstance(item.image, UnreadableImage):
                        yield item.image
                        continue
                    of_heads = next(predictions)
                    yield MultiResult(
                        (name, head.finished(of_heads[name], item, options[name])) for name, head in self.heads.items()
                    )

        return results()

    def _infer(self, images: Sequence[Tensor], batch_size: int) -> list[dict[str, Prediction]]:
        """The predictions of all heads for images [C, H, W] uint8."""
        results: dict[int, dict[str, Prediction]] = {}
        for indices, batch, frames in batches(images, self.task.preprocess, batch_size, self.reader.device):
            with torch.inference_mode(), self.reader.autocast():
                of_heads = self.task.infer_heads(self.reader.to_device(batch), frames)
            for i, index in enumerate(indices):
                results[index] = {name: predictions[i] for name, predictions in of_heads.items()}
        return [results[i] for i in range(len(images))]

    def summarize(self, results: Sequence[Mapping[str, Prediction]], top: int) -> str:
        """The predictions for one image, or for the frames of a video, in a line."""
        return "; ".join(
            f"{name}: {head.summarize([result[name] for result in results], top)}" for name, head in self.heads.items()
        )


class MultiFolder:
    """A folder of predictions of several heads: a PredictionFolder for each, named after it. A context manager."""

    def __init__(
        self, folder: str | Path, sources: Sequence[Source], predictor: MultiPredictor, *, top: int = 3
    ) -> None:
        """Arguments and errors as of PredictionFolder."""
        self.folder = expanded(folder)
        self.heads = {
            name: PredictionFolder(self.folder / name, sources, head, top=top) for name, head in predictor.heads.items()
        }
        self.stack = ExitStack()

    def __enter__(self) -> MultiFolder:
        for folder in self.heads.values():
            self.stack.enter_context(folder)
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def add(self, index: int, result: MultiResult) -> None:
        """Writes the predictions for the image `sources[index]`."""
        for name, folder in self.heads.items():
            folder.add(index, result[name])

    @contextmanager
    def video(self, index: int) -> Iterator[Any]:
        """Gives a function that takes the predictions for the frames of the video `sources[index]`."""
        with ExitStack() as stack:
            added = {name: stack.enter_context(folder.video(index)) for name, folder in self.heads.items()}

            def add(result: MultiResult) -> None:
                for name, function in added.items():
                    function(result[name])

            yield add

    def summary(self) -> str:
        """One line that lists the contents of the folders."""
        return "; ".join(folder.summary() for folder in self.heads.values())
