"""`vertebra predict CHECKPOINT PICTURES…`: answers on the screen, and in files with --save."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

import vertebra
from vertebra import pictures
from vertebra.cli.parsing import parse, parser
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.predict import Predictor
from vertebra.structures import Prediction
from vertebra.viz.draw import classified


@dataclass
class Options:
    save: str | None = None
    """Folder for the pictures with their answers drawn in, predictions.csv and predictions.json."""
    top: int = 3
    """Answers per picture."""
    embeddings: bool = False
    """Save the pooled features too, as embeddings.npz with `paths` and `embeddings`; needs --save."""
    strict: bool = False
    """Stop at the first picture that cannot be read, instead of listing it and going on."""
    device: str | None = None
    """Where to run, such as cpu or cuda; the fastest there is if not given."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("predict", "Asks a trained model about pictures.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_argument("pictures", nargs="+", help="Files, folders or patterns such as 'in/*.jpg'.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    if chosen.embeddings and not chosen.save:
        raise VertebraError("--embeddings needs --save=FOLDER to write to.")
    if chosen.top < 1:
        raise VertebraError(f"--top is {chosen.top}; it must be 1 or more.")
    files = list(_files(chosen.pictures))
    predictor = vertebra.load(chosen.checkpoint, device=chosen.device)
    found: list[Prediction] = []
    broken: list[str] = []
    for answer in track(
        predictor.stream(files), "predicting", total=len(files), disable=len(files) < 50, transient=True
    ):
        if isinstance(answer, Prediction):
            found.append(answer)
            top = answer.top(chosen.top)
            print(f"{answer.path}  " + "  ".join(f"{predictor.classes[i]} {p:.3f}" for i, p in top))
        elif chosen.strict:
            raise answer
        else:
            broken.append(str(answer))
            print(f"left out: {answer}")
    if broken:
        print(f"{len(broken)} of {len(files)} pictures could not be read and were left out")
    if not found:
        raise VertebraError("none of the pictures could be read.")
    if chosen.save:
        _save(Path(chosen.save), found, predictor, chosen.top, chosen.embeddings)


def _files(words: Sequence[str]) -> Iterator[Path]:
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = pictures.find(path)
            if not inside:
                raise VertebraError(f"{path} holds no pictures ({', '.join(pictures.SUFFIXES)}).")
            yield from inside
        elif path.is_file():
            yield path
        elif matches := sorted(glob.glob(word, recursive=True)):
            yield from (Path(m) for m in matches if Path(m).is_file())
        else:
            raise VertebraError(f"{word} is neither a file, a folder nor a pattern that matches one.")


def _save(folder: Path, found: Sequence[Prediction], predictor: Predictor, top: int, embeddings: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    rows: list[dict[str, Any]] = []
    for prediction in found:
        source = Path(prediction.path)
        name, number = f"{source.stem}.png", 2
        while name in taken:  # pictures of one name from several folders
            name, number = f"{source.stem}-{number}.png", number + 1
        taken.add(name)
        picture = pictures.read(source, predictor.task.preprocess.channels)
        classified(picture, prediction, predictor.classes, top).save(folder / name)
        answers = [{"class": predictor.classes[i], "probability": round(p, 6)} for i, p in prediction.top(top)]
        rows.append({"path": prediction.path, "picture": name, "answers": answers})
    with replacing(folder / "predictions.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1))
    with replacing(folder / "predictions.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "probability"])
        writer.writerows([row["path"], row["answers"][0]["class"], row["answers"][0]["probability"]] for row in rows)
    if embeddings:
        paths = [prediction.path for prediction in found]
        vectors = predictor.embed(paths).numpy()
        with replacing(folder / "embeddings.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, paths=np.array(paths), embeddings=vectors)
    print(f"{len(rows)} pictures, predictions.csv and predictions.json in {folder}")
