"""A folder of predictions: images and videos with the predictions drawn in, and the files of the task's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vertebra.errors import VertebraError
from vertebra.files import expanded, held, replacing
from vertebra.images import read_image
from vertebra.predict import video
from vertebra.predict.predictor import Predictor
from vertebra.structures import Prediction


class PredictionFolder:
    """Takes predictions one by one, in the order of the files. A context manager; tables are complete when it exits."""

    def __init__(
        self, folder: str | Path, files: Sequence[Path], predictor: Predictor, *, ids: Any = None, top: int = 3
    ) -> None:
        """
        Args:
            files: all images and videos to predict on.
            ids: the dataset's ids of images and classes, for kinds that write such; 1, 2, ... if None.
            top: classes written per image, for kinds that rank classes.

        Raises:
            VertebraError: if an input file would be overwritten.
        """
        self.folder, self.files, self.predictor, self.top = expanded(folder), files, predictor, top
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names = list(_unique_names(files))
        inputs = {file.resolve() for file in files}
        for name in self.names:
            if (self.folder / name).resolve() in inputs:
                raise VertebraError(f"{self.folder / name} would be overwritten: choose another folder to save to.")
        self.writer = predictor.kind.writer(self.folder, predictor.classes, ids, top)
        self.images: list[str] = []
        self.videos = 0
        self._extra_frames = 0  # frames so far, without the first of each video

    def __enter__(self) -> PredictionFolder:
        self.writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.__exit__(*error)

    def add(self, index: int, prediction: Prediction) -> None:
        """Writes the prediction for the image `files[index]`."""
        image = read_image(self.files[index], self.predictor.task.preprocess.channels)
        with replacing(self.folder / self.names[index]) as temporary:
            self._draw(image, prediction).save(temporary, "PNG")
        self.images.append(prediction.path)
        self.writer.add(prediction, index + 1 + self._extra_frames, self.names[index])

    @contextmanager
    def video(self, index: int, rate: Fraction) -> Iterator[Callable[[Tensor, Prediction], None]]:
        """Gives a function that takes the frames [C, H, W] uint8 of the video `files[index]` and their predictions.

        The frames are written as a video of `rate` frames per second; as a folder of images if no encoder is installed.
        """
        encodes = bool(video.encoder())
        if not encodes:
            self.names[index] = Path(self.names[index]).stem
        path, first = self.folder / self.names[index], index + 1 + self._extra_frames
        writer: video.VideoWriter | None = None
        count = 0
        with ExitStack() as stack:

            def add(frame: Tensor, prediction: Prediction) -> None:
                nonlocal writer, count
                image = self._draw(frame, prediction)
                if not encodes:
                    with replacing(path / f"{count:06}.png") as temporary:
                        image.save(temporary, "PNG")
                else:
                    if writer is None:
                        writer = stack.enter_context(video.VideoWriter(stack.enter_context(held(path)), rate))
                    writer.add(image)
                self.writer.add(prediction, first + count, self.names[index])
                count += 1

            yield add
        self.videos += count > 0
        self._extra_frames += max(0, count - 1)

    def embed(self) -> None:
        """Writes the pooled features of all images as embeddings.npz."""
        embeddings = self.predictor.embed(self.images).numpy()
        with replacing(self.folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, paths=np.array(self.images), embeddings=embeddings)

    def summary(self) -> str:
        """One line that lists the contents of the folder."""
        counts = [(len(self.images), "image"), (self.videos, "video")]
        parts = [f"{count} {word}{'s' * (count != 1)}" for count, word in counts if count]
        *files, last = [*parts, *self.writer.files]
        return f"{', '.join(files)} and {last} in {self.folder}"

    def _draw(self, image: Tensor, prediction: Prediction) -> Image.Image:
        predictor = self.predictor
        return predictor.kind.draw(image, prediction, predictor.classes, keypoints=predictor.keypoints, top=self.top)


def _unique_names(files: Sequence[Path]) -> Iterator[str]:
    """A name for each file's drawing; files of one name may come from several folders."""
    taken: set[str] = set()
    for file in files:
        suffix = ".mp4" if file.suffix.lower() in video.SUFFIXES else ".png"
        name, number = f"{file.stem}{suffix}", 2
        while name in taken:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        taken.add(name)
        yield name
