"""A folder of predictions: images and videos with the predictions drawn in, crops, and the files of a format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded, held, replacing
from vertebra.kinds.writers import WriterOptions, stem_of
from vertebra.predict import video
from vertebra.predict.predictor import Predictor
from vertebra.predict.result import ImageResult
from vertebra.predict.sources import ImageSource, Source, VideoFrame, VideoSource
from vertebra.viz.draw import drawn_size


class PredictionFolder:
    """Takes predictions one by one, in the order of the sources. A context manager; files of all images are complete
    when it exits."""

    def __init__(
        self,
        folder: str | Path,
        sources: Sequence[Source],
        predictor: Predictor,
        *,
        ids: Any = None,
        top: int = 3,
        format: str = "",
        scores: bool = False,
        crops: bool = False,
    ) -> None:
        """
        Args:
            sources: all images and videos to predict on.
            ids: the dataset's ids of images and classes, for kinds that write such; 1, 2, ... if None.
            top: classes written per image, for kinds that rank classes.
            format: of the files beside the drawings; the kind's first one if empty.
            scores: whether label files have the score of each object.
            crops: whether each object is saved as an image of its own.

        Raises:
            VertebraError: if an input file would be overwritten, or there is no such format.
        """
        self.folder, self.sources, self.predictor, self.top, self.crops = (
            expanded(folder),
            sources,
            predictor,
            top,
            crops,
        )
        options = WriterOptions(predictor.classes, ids, predictor.keypoints, scores, _original)
        self.writer = predictor.kind.writer(self.folder, options, format=format, top=top)
        self.names = list(unique_names(sources))
        check_inputs(self.folder, self.names, sources)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images: list[Source] = []
        self.videos = self.cropped = self.reduced = 0
        self._extra_frames = 0  # frames so far, without the first of each video

    def __enter__(self) -> PredictionFolder:
        self.writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.__exit__(*error)

    def add(self, index: int, result: ImageResult) -> None:
        """Writes the prediction for the image `sources[index]`."""
        drawn = self._draw(result)
        with replacing(self.folder / self.names[index]) as temporary:
            drawn.save(temporary, "PNG")
        self.images.append(self.sources[index])
        self._write(result, index + 1 + self._extra_frames, self.names[index])

    @contextmanager
    def video(self, index: int) -> Iterator[Callable[[ImageResult], None]]:
        """Gives a function that takes the predictions for the frames of the video `sources[index]`.

        The frames are written as a video without sound; as a folder of images if no encoder is installed.
        """
        encodes = bool(video.encoder())
        if not encodes:
            self.names[index] = Path(self.names[index]).stem
        path, first = self.folder / self.names[index], index + 1 + self._extra_frames
        writer: video.VideoWriter | None = None
        count = 0
        with ExitStack() as stack:

            def add(result: ImageResult) -> None:
                nonlocal writer, count
                image = self._draw(result)
                if not encodes:
                    with replacing(path / f"{count:06}.png") as temporary:
                        image.save(temporary, "PNG")
                else:
                    if writer is None:
                        assert isinstance(result.source, VideoFrame)
                        file = stack.enter_context(held(path))
                        writer = stack.enter_context(video.VideoWriter(file, result.source.rate))
                    writer.add(image)
                self._write(result, first + count, self.names[index])
                count += 1

            yield add
        self.videos += count > 0
        self._extra_frames += max(0, count - 1)

    def embed(self) -> None:
        """Writes the pooled features of all images as embeddings.npz."""
        names = [source.name for source in self.images]
        embeddings = self.predictor.embed(self.images).numpy()
        with replacing(self.folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, paths=np.array(names), embeddings=embeddings)

    def summary(self) -> str:
        """One line that lists the contents of the folder."""
        counts = [(len(self.images), "image"), (self.videos, "video"), (self.cropped, "crop")]
        parts = [f"{count} {word}{'s' * (count != 1)}" for count, word in counts if count]
        *files, last = [*parts, *self.writer.files]
        smaller = f" ({self.reduced} drawn smaller than {'they are' if self.reduced > 1 else 'it is'})"
        return f"{', '.join(files)} and {last} in {self.folder}{smaller if self.reduced else ''}"

    def _draw(self, result: ImageResult) -> Image.Image:
        assert result.size is not None
        self.reduced += drawn_size(result.size) < result.size
        return result.plot(top=self.top)

    def _write(self, result: ImageResult, number: int, drawn: str) -> None:
        self.writer.add(result, number, drawn)
        if not self.crops:
            return
        for instance, crop in result.crops():
            name = f"{stem_of(result, drawn)}-{instance.index + 1}.png"
            path = self.folder / "crops" / _safe(instance.name) / name
            with replacing(path) as temporary:
                crop.save(temporary, "PNG")
            self.cropped += 1


def _original(result: ImageResult) -> Path | Tensor:
    """The file of an image, or its pixels [C, H, W] uint8."""
    source = result.source
    return source.image if isinstance(source, ImageSource) and isinstance(source.image, Path) else result.image


def check_inputs(folder: Path, names: Sequence[str], sources: Sequence[Source]) -> None:
    """Raises VertebraError if one of the files `names` in `folder` is one of the sources."""
    origins = (source.address if isinstance(source, VideoSource) else source.image for source in sources)
    inputs = {origin.resolve() for origin in origins if isinstance(origin, Path)}
    for name in names:
        if (folder / name).resolve() in inputs:
            raise VertebraError(f"{folder / name} would be overwritten: choose another folder to save to.")


def unique_names(sources: Sequence[Source]) -> Iterator[str]:
    """A name for each source's drawing; files of one name may come from several folders."""
    taken: set[str] = set()
    for source in sources:
        stem = _stem(source)
        suffix = ".mp4" if isinstance(source, VideoSource) else ".png"
        name, number = f"{stem}{suffix}", 2
        while name in taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(name)
        yield name


def _stem(source: Source) -> str:
    """The name of a file without its ending; of a URL its last part, or else its server's."""
    origin = source.address if isinstance(source, VideoSource) else source.image
    if isinstance(origin, Path):
        return origin.stem
    address = re.split(r"[?#]", source.name.rpartition("://")[2])[0]
    return _safe(PurePosixPath(address).stem)


def _safe(name: str) -> str:
    """A name as that of a file or folder."""
    return re.sub(r"[^\w. -]", "_", escaped(name)).strip(". ")[:100] or "_"
