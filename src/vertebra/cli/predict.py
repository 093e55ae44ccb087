"""`vertebra predict CHECKPOINT IMAGES...`: predictions on the screen, and in files with --save."""

from __future__ import annotations

import glob
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

import vertebra
from vertebra.cli.parsing import parse, parser
from vertebra.engine.settings import Precision
from vertebra.errors import VertebraError
from vertebra.files import expanded
from vertebra.images import SUFFIXES, UnreadableImage, find_images
from vertebra.predict import Predictor, video
from vertebra.predict.folder import PredictionFolder
from vertebra.predict.predictor import check_option
from vertebra.structures import Prediction


@dataclass
class Options:
    save: str | None = None
    """Folder for the images and videos with the predictions drawn in, predictions.csv and predictions.json."""
    threshold: float | None = None
    """Detections with a lower score are dropped, 0..1; default: the checkpoint's best F1, else 0.5."""
    tile: int = 0
    """Cut images with a longer side into tiles of this side in pixels; 0 predicts on whole images."""
    overlap: float | None = None
    """Smallest share of a tile's side that neighbouring tiles have in common, up to 0.5; default: 0.2."""
    tta: bool = False
    """Test-time augmentation: merge the predictions on the image, the mirrored image and, for objects, smaller and
    larger images."""
    every: int | None = None
    """Of videos, predict on every N-th frame; default: 1."""
    top: int | None = None
    """Classes listed per image, of tasks that rank classes; default: 3."""
    embeddings: bool = False
    """Save the pooled features too, as embeddings.npz with `paths` and `embeddings`; needs --save."""
    annotations: str | None = None
    """COCO file of the dataset, whose ids of images and classes predictions.json then has."""
    batch_size: int | None = None
    """Most images per forward pass; default: 1 on a CPU, else 16."""
    strict: bool = False
    """Stop at the first image that cannot be read, instead of skipping it."""
    device: str | None = None
    """Device such as cpu or cuda; default: the fastest available."""
    precision: Precision = "32-true"
    """Number format of the computation; bf16-mixed is faster on processors that have such instructions."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("predict", "Runs a trained model on images and videos.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_argument("images", nargs="+", help="Image and video files, folders, or patterns such as 'in/*.jpg'.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    files = list(dict.fromkeys(_files(options.images)))  # patterns may overlap
    videos = [file for file in files if _is_video(file)]
    _check(options, videos)
    predictor = vertebra.load(options.checkpoint, device=options.device, precision=options.precision)
    _check_kind(options, predictor)
    ids = predictor.kind.dataset_ids(options.annotations, predictor.classes) if options.annotations else None
    image_ids: Sequence[int | None] = ids.of_all(files) if ids else [None] * len(files)
    stream = partial(
        predictor.stream,
        batch_size=options.batch_size or (1 if predictor.device.type == "cpu" else 16),
        threshold=options.threshold,
        tile=options.tile,
        overlap=0.2 if options.overlap is None else options.overlap,
        tta=options.tta,
    )
    stream([])  # checks the options before the first image is read
    top = options.top or 3
    session = _Session(predictor, stream, top, every=options.every or 1, strict=options.strict)
    with ExitStack() as stack:
        if options.save:
            folder = PredictionFolder(options.save, files, predictor, ids=ids, top=top)
            session.folder = stack.enter_context(folder)
        for are_videos, group in itertools.groupby(range(len(files)), key=lambda i: _is_video(files[i])):
            indices = list(group)
            if are_videos:
                for index in indices:
                    session.predict_video(index, files[index])
            else:
                session.predict_images(indices, files, image_ids, progress=len(indices) >= 50 or options.tile > 0)
        word = "files" if videos else "images"
        if session.skipped:
            print(f"{session.skipped} of {len(files)} {word} could not be read and were skipped")
        if not session.read:
            raise VertebraError(f"none of the {word} could be read.")
    if "threshold" in predictor.kind.options:
        print(_threshold_line(predictor, options.threshold, session))
    if session.folder:
        if options.embeddings:
            session.folder.embed()
        print(session.folder.summary())


class _Session:
    """Predicts on the files, prints a line for each, and counts."""

    def __init__(
        self,
        predictor: Predictor,
        stream: Callable[[Iterable[Any]], Iterator[Any]],
        top: int,
        *,
        every: int,
        strict: bool,
    ) -> None:
        self.predictor, self.stream, self.top, self.every, self.strict = predictor, stream, top, every, strict
        self.folder: PredictionFolder | None = None
        self.read = 0
        """Images and frames that could be read."""
        self.skipped = 0
        """Files that could not be read."""
        self.below_threshold = 0
        """Detections dropped because of their score."""

    def predict_images(
        self, indices: Sequence[int], files: Sequence[Path], image_ids: Sequence[int | None], *, progress: bool
    ) -> None:
        """Predicts on the images among the files at `indices`."""
        results = _tracked(self.stream([files[i] for i in indices]), len(indices), shown=progress)
        for index, result in zip(indices, results, strict=True):
            if isinstance(result, Prediction):
                self.read += 1
                result.id = image_ids[index]
                print(f"{result.path}  {self._summary([result])}")
                if self.folder:
                    self.folder.add(index, result)
            else:
                self._skip(result)
        self.below_threshold += self.predictor.below_threshold

    def predict_video(self, index: int, path: Path) -> None:
        """Predicts on the frames of a video and prints a line that summarises all of them."""
        waiting: deque[tuple[int, Tensor]] = deque()  # frames that were read and have no prediction yet
        errors: list[UnreadableImage] = []

        def frames(source: video.Video) -> Iterator[Tensor]:
            try:
                for number, frame in video.read_frames(source, self.every):
                    waiting.append((number, frame))
                    yield frame
            except UnreadableImage as error:  # the frames before it count
                errors.append(error)

        predictions: list[Prediction] = []
        with ExitStack() as stack:
            try:
                source = video.probe(path)
            except UnreadableImage as error:
                errors.append(error)
            else:
                add = stack.enter_context(self.folder.video(index, source.rate / self.every)) if self.folder else None
                total = -(-source.frames // self.every) or None
                for prediction in _tracked(self.stream(frames(source)), total, shown=True):
                    number, frame = waiting.popleft()
                    prediction.path = f"{path}#{number}"
                    if add:
                        add(frame, prediction)
                    predictions.append(_without_pixels(prediction))
                self.below_threshold += self.predictor.below_threshold
        count = len(predictions)
        if not count and not errors:
            errors.append(UnreadableImage(f"{path}: no frame of this video could be read."))
        if errors and self.strict:
            raise errors[0]
        if count:
            print(f"{path}  {count} frame{'s' * (count > 1)}: {self._summary(predictions)}")
            self.read += count
            for damage in errors:
                print(f"incomplete: {damage}")
        else:
            self._skip(errors[0])

    def _summary(self, predictions: Sequence[Prediction]) -> str:
        return self.predictor.kind.summarize(predictions, self.predictor.classes, self.top)

    def _skip(self, error: UnreadableImage) -> None:
        if self.strict:
            raise error
        self.skipped += 1
        print(f"skipped: {error}")


def _without_pixels(prediction: Prediction) -> Prediction:
    """For the summary of a video; the masks of all its frames would fill the memory."""
    return replace(prediction, masks=None, semantic=None)


def _threshold_line(predictor: Predictor, option: float | None, session: _Session) -> str:
    """The score threshold, where it comes from, and what it hides."""
    if option is not None:
        threshold, origin = option, "--threshold"
    elif predictor.measured_threshold is not None:
        threshold, origin = predictor.threshold, "best F1 of the checkpoint's evaluation"
    else:
        threshold, origin = predictor.threshold, "default"
    hidden = session.below_threshold
    return f"score threshold {threshold:.4g} ({origin}): {hidden} detection{'s' * (hidden != 1)} below it"


def _check(options: Any, videos: Sequence[Path]) -> None:
    """Checks that need no model."""
    for flag in ("embeddings", "annotations"):
        if getattr(options, flag) and not options.save:
            raise VertebraError(f"--{flag} needs --save=FOLDER to write to.")
        if getattr(options, flag) and videos:
            raise VertebraError(f"--{flag} is for images, and {videos[0]} is a video.")
    written = options.annotations and expanded(options.save) / "images.json"
    if written and written.resolve() == expanded(options.annotations).resolve():
        raise VertebraError(f"{options.annotations} would be overwritten: choose another folder to save to.")
    for flag in ("top", "every", "batch_size"):
        if (number := getattr(options, flag)) is not None and number < 1:
            raise VertebraError(f"--{flag} is {number}; it must be 1 or more.")
    if options.overlap is not None and not options.tile:
        raise VertebraError("--overlap is for tiles: it needs --tile=PIXELS.")
    if options.every is not None and not videos:
        raise VertebraError(f"--every is for videos ({', '.join(video.SUFFIXES)}), and none is given.")
    if videos:
        video.library()


def _check_kind(options: Any, predictor: Predictor) -> None:
    """Refuses the options that do not apply to the kind of prediction."""
    for name in ("threshold", "tile", "overlap", "annotations", "top", "embeddings"):
        value = getattr(options, name)
        if value is not None and value is not False and (value != 0 or name == "threshold"):
            check_option(name, predictor.task, f"--{name}")


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _files(words: Sequence[str]) -> Iterator[Path]:
    """The image and video files that the words name."""
    suffixes = (*SUFFIXES, *video.SUFFIXES)
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = find_images(path, suffixes)
            if not files:
                raise VertebraError(f"{path} holds no images ({', '.join(SUFFIXES)}).")
            yield from files
        elif path.is_file():
            yield path
        elif matches := sorted(glob.glob(word, recursive=True)):
            for match in map(Path, matches):
                yield from find_images(match, suffixes) if match.is_dir() else [match]
        else:
            raise VertebraError(f"{word} is neither a file, a folder nor a pattern that matches one.")


def _tracked(results: Iterator[Any], total: int | None, *, shown: bool) -> Iterable[Any]:
    """With a progress bar on a terminal; in a pipe only what is printed."""
    return track(results, "predicting", total=total, disable=not (shown and sys.stdout.isatty()), transient=True)
