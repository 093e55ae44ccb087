"""A folder of answers: pictures and films with what is said of them drawn in, and tables of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vertebra import pictures
from vertebra.errors import VertebraError
from vertebra.files import expanded, held, replacing
from vertebra.predict import video
from vertebra.predict.predictor import Predictor
from vertebra.predict.results import Numbers, Results
from vertebra.structures import Prediction
from vertebra.viz.draw import answered


class Folder:
    """Takes answers one by one, in the order of the files; a context, at whose end the tables are there."""

    def __init__(
        self, folder: str | Path, files: Sequence[Path], predictor: Predictor, numbers: Numbers, count: int = 3
    ) -> None:
        """
        Args:
            files: all that are asked about.
            numbers: those of pictures and classes in predictions.json, where objects are found.
            count: classes per picture, where pictures are classified.

        Raises:
            VertebraError: if a file would be overwritten.
        """
        self.folder, self.files, self.predictor, self.count = expanded(folder), files, predictor, count
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names = list(_names(files))
        own = {file.resolve() for file in files}
        for name in self.names:
            if (self.folder / name).resolve() in own:
                raise VertebraError(f"{self.folder / name} would be overwritten: choose another folder to save to.")
        self.results = Results(self.folder, predictor.classes, numbers) if predictor.finds_objects else None
        self.rows: list[dict[str, Any]] = []
        self.pictures: list[str] = []
        self.films = 0
        self.more = 0  # frames so far, but for the first of each film

    def __enter__(self) -> Folder:
        if self.results:
            self.results.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.results:
            self.results.__exit__(*error)
        elif error[0] is None:
            with replacing(self.folder / "predictions.json") as temporary:
                temporary.write_text(json.dumps(self.rows, indent=1))
            best = [(row["path"], row["answers"][0]) for row in self.rows]
            with (
                replacing(self.folder / "predictions.csv") as temporary,
                temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
            ):
                writer = csv.writer(file)
                writer.writerow(["path", "class", "probability"])
                writer.writerows([path, answer["class"], answer["probability"]] for path, answer in best)

    def add(self, place: int, prediction: Prediction) -> None:
        """Takes the answer about the picture at a place among the files."""
        picture = pictures.read(self.files[place], self.predictor.task.preprocess.channels)
        with replacing(self.folder / self.names[place]) as temporary:
            self._drawn(picture, prediction).save(temporary, "PNG")
        self.pictures.append(prediction.path)
        self._write(place, prediction, place + 1 + self.more)

    @contextmanager
    def film(self, place: int, rate: Fraction) -> Iterator[Callable[[Tensor, Prediction], None]]:
        """Gives a function that takes a film's frames, [C, H, W] uint8, and what is said of them, in turn.

        The frames become a film again, of `rate` frames a second; if none can be encoded here, a folder of pictures.
        """
        if not video.encoder():
            self.names[place] = Path(self.names[place]).stem
        path, first = self.folder / self.names[place], place + 1 + self.more
        writer: video.Writer | None = None
        taken = 0
        with ExitStack() as stack:

            def add(frame: Tensor, prediction: Prediction) -> None:
                nonlocal writer, taken
                image = self._drawn(frame, prediction)
                if not video.encoder():
                    with replacing(path / f"{taken:06}.png") as temporary:
                        image.save(temporary, "PNG")
                else:
                    if writer is None:
                        writer = stack.enter_context(video.Writer(stack.enter_context(held(path)), rate))
                    writer.add(image)
                self._write(place, prediction, first + taken)
                taken += 1

            yield add
        self.films += taken > 0
        self.more += max(0, taken - 1)

    def embed(self) -> None:
        """Writes the pooled features of all pictures."""
        vectors = self.predictor.embed(self.pictures).numpy()
        with replacing(self.folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, paths=np.array(self.pictures), embeddings=vectors)

    def summary(self) -> str:
        """What is in the folder, as a line."""
        parts = [
            f"{len(self.pictures)} pictures" if self.pictures or not self.films else "",
            f"{self.films} film{'s' * (self.films > 1)}" if self.films else "",
            "predictions.csv",
            "images.json" if self.results else "",
        ]
        return f"{', '.join(part for part in parts if part)} and predictions.json in {self.folder}"

    def _drawn(self, picture: Tensor, prediction: Prediction) -> Image.Image:
        predictor = self.predictor
        return answered(picture, prediction, predictor.classes, points=predictor.points, count=self.count)

    def _write(self, place: int, prediction: Prediction, number: int) -> None:
        if self.results:
            self.results.add(prediction, number, self.names[place])
            return
        classes = self.predictor.classes
        answers = [{"class": classes[i], "probability": round(p, 6)} for i, p in prediction.top(self.count)]
        self.rows.append({"path": prediction.path, "picture": self.names[place], "answers": answers})


def _names(files: Sequence[Path]) -> Iterator[str]:
    """A name of its own for each file's drawing: files of one name may come from several folders."""
    taken: set[str] = set()
    for file in files:
        suffix = ".mp4" if file.suffix.lower() in video.SUFFIXES else ".png"
        name, number = f"{file.stem}{suffix}", 2
        while name in taken:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        taken.add(name)
        yield name
