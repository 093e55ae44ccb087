"""What `vertebra predict` does: predicts on all sources, prints a line for each, writes the results."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from vertebra.errors import escaped
from vertebra.images import UnreadableImage
from vertebra.predict.folder import PredictionFolder
from vertebra.predict.multi import MultiFolder, MultiPredictor, MultiResult
from vertebra.predict.predictor import Predictor
from vertebra.predict.result import ImageResult
from vertebra.predict.sources import ImageSource, Source, VideoFrame, VideoSource
from vertebra.progress import track

MANY = 50
"""With as many images, a bar shows the progress."""


class Session:
    """Predicts on sources, prints a line for each, and counts."""

    def __init__(
        self,
        predictor: Predictor | MultiPredictor,
        stream: Callable[..., Iterator[Any]],
        *,
        top: int = 3,
        strict: bool = False,
        folder: PredictionFolder | MultiFolder | None = None,
        lines: TextIO | None = None,
    ) -> None:
        """
        Args:
            predictor: of one model, or of several heads.
            stream: `predictor.stream` with its options.
            top: classes listed per image, of kinds that rank classes.
            strict: whether the first image that cannot be read is an error.
            folder: for drawings and tables.
            lines: takes the result of each image and frame as a line of JSON, at once.
        """
        self.predictor, self.stream, self.top, self.strict = predictor, stream, top, strict
        self.folder, self.lines = folder, lines
        self.printed = lines is sys.stdout
        """Whether the lines of JSON are on standard output; all others then go to standard error."""
        self.stopped = threading.Event()
        """Set by Ctrl-C: all files are then closed as they are, and no further image is read."""
        self.read = 0
        """Images and frames that could be read."""
        self.skipped = 0
        """Images and videos that could not be read."""
        self.below_threshold = 0
        """Detections dropped because of their score."""

    def run(self, sources: Sequence[Source], image_ids: Sequence[int | None]) -> None:
        """Predicts on all sources; `image_ids` are the numbers of the images, where a dataset gives them some."""
        images: list[tuple[int, ImageSource]] = []
        with _interrupt_sets(self.stopped):
            for index, source in enumerate(sources):
                if isinstance(source, ImageSource):
                    images.append((index, source))
                    continue
                self._predict_images(images, image_ids)
                images = []
                self._predict_video(index, source)
            self._predict_images(images, image_ids)

    def _predict_images(self, images: Sequence[tuple[int, ImageSource]], image_ids: Sequence[int | None]) -> None:
        """Predicts on sources that follow each other, each with its index among all."""
        results = self._until_stopped(self.stream([source for _, source in images]))
        if len(images) >= MANY and not self.printed:
            results = track(results, "predicting", len(images))
        for (index, source), result in zip(images, results):
            if not isinstance(result, UnreadableImage):
                self.read += 1
                result.id = image_ids[index]
                self.say(f"{result.path}  {self._summary([result])}")
                self._write_line(result)
                if self.folder:
                    self.folder.add(index, result)
            else:
                self._skip(source, result)
        self.below_threshold += self.predictor.below_threshold

    def _predict_video(self, index: int, source: VideoSource) -> None:
        """Predicts on the frames of a video and prints a line that summarises all of them; for a live one, each."""
        results = self._until_stopped(self.stream([source]))
        first = next(results, None)
        errors: list[UnreadableImage] = []
        predictions: list[Any] = []
        count = 0
        if first is not None and not isinstance(first, UnreadableImage):
            results = itertools.chain([first], results)
            assert isinstance(first.source, VideoFrame)
            if not source.live and not self.printed:
                results = track(results, "predicting", first.source.total or None)
            with self.folder.video(index) if self.folder else _nowhere() as add:
                for result in results:
                    if isinstance(result, UnreadableImage):  # the frames before it count
                        errors.append(result)
                        continue
                    add(result)
                    self._write_line(result)
                    if source.live:
                        self.say(f"{result.path}  {self._summary([result])}")
                    else:
                        predictions.append(result.without_maps())
                    count += 1
            self.below_threshold += self.predictor.below_threshold
        elif first is not None:
            errors.append(first)
        elif not self.stopped.is_set():
            errors.append(UnreadableImage(f"{source.name}: no frame of this video could be read."))
        self.read += count
        if errors and self.strict:
            raise errors[0]
        if count and not source.live:
            self.say(f"{source.name}  {count} frame{'s' * (count > 1)}: {self._summary(predictions)}")
        for damage in errors:
            if count:
                self.say(f"incomplete: {damage}")
            else:
                self._skip(source, damage)

    def _until_stopped(self, results: Iterator[Any]) -> Iterator[Any]:
        while not self.stopped.is_set() and (result := next(results, None)) is not None:
            yield result

    def _summary(self, predictions: Sequence[Any]) -> str:
        return self.predictor.summarize(predictions, self.top)

    def _skip(self, source: Source, error: UnreadableImage) -> None:
        if self.strict:
            raise error
        self.skipped += 1
        self.say(f"skipped: {error}")
        self._write_json({"path": source.name, "error": str(error)})

    def _write_line(self, result: ImageResult | MultiResult) -> None:
        if self.lines:
            self._write_json(result.to_dict(top=self.top))

    def _write_json(self, content: dict[str, Any]) -> None:
        if self.lines:
            self.lines.write(json.dumps(content) + "\n")
            self.lines.flush()

    def say(self, line: str) -> None:
        """Prints a line, away from the results if they go to standard output."""
        print(escaped(line), file=sys.stderr if self.printed else sys.stdout, flush=self.lines is not None)


@contextmanager
def _nowhere() -> Iterator[Callable[[Any], None]]:
    yield lambda result: None


@contextmanager
def _interrupt_sets(stopped: threading.Event) -> Iterator[None]:
    """While the block runs, the first Ctrl-C sets the event, and the second one ends the block as usual."""
    if threading.current_thread() is not threading.main_thread():  # where there are no signals
        yield
        return

    def handle(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
