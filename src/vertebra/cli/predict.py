"""`vertebra predict CHECKPOINT PICTURES…`: answers on the screen, and in files with --save."""

from __future__ import annotations

import glob
import itertools
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

import vertebra
from vertebra import pictures
from vertebra.cli.parsing import parse, parser
from vertebra.engine.settings import Precision
from vertebra.errors import VertebraError
from vertebra.files import expanded
from vertebra.predict import Predictor, video
from vertebra.predict.folder import Folder
from vertebra.predict.results import Numbers
from vertebra.structures import Prediction


@dataclass
class Options:
    save: str | None = None
    """Folder for the pictures and films with their answers drawn in, predictions.csv and predictions.json."""
    threshold: float | None = None
    """Objects with a lower score are left out, 0..1; the checkpoint's own or 0.5 if not given."""
    tile: int = 0
    """Look for objects in tiles of so many pixels where a picture is larger; 0 looks at every picture as a whole."""
    overlap: float | None = None
    """Least share of a tile's side that neighbours have in common, up to 0.5; 0.2 if not given."""
    tta: bool = False
    """Ask about every picture mirrored as well, and for objects also smaller and larger, and join the answers."""
    every: int | None = None
    """Of films, every so many-th frame; each if not given."""
    top: int | None = None
    """Classes per picture, where pictures are classified; 3 if not given."""
    embeddings: bool = False
    """Save the pooled features too, as embeddings.npz with `paths` and `embeddings`; needs --save."""
    annotations: str | None = None
    """COCO file of the pictures' data set, for predictions.json to take its numbers of pictures and classes from."""
    batch_size: int | None = None
    """Pictures that go through the network together; 1 on a CPU and 16 elsewhere if not given."""
    strict: bool = False
    """Stop at the first picture that cannot be read, instead of listing it and going on."""
    device: str | None = None
    """Where to run, such as cpu or cuda; the fastest there is if not given."""
    precision: Precision = "32-true"
    """Number format of the computation; bf16-mixed is faster on processors that have such instructions."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("predict", "Asks a trained model about pictures.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_argument("pictures", nargs="+", help="Files, films too, folders or patterns such as 'in/*.jpg'.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    files = list(dict.fromkeys(_files(chosen.pictures)))  # patterns may overlap
    films = [file for file in files if _is_film(file)]
    _check(chosen, films)
    predictor = vertebra.load(chosen.checkpoint, device=chosen.device, precision=chosen.precision)
    _check_task(chosen, predictor)
    numbers = Numbers.plain(predictor.classes)
    if chosen.annotations:
        numbers = Numbers.read(chosen.annotations, predictor.classes)
    ids = numbers.of_all(files) if chosen.annotations else [None] * len(files)
    ask = partial(
        predictor.stream,
        batch_size=chosen.batch_size or (1 if predictor.device.type == "cpu" else 16),
        threshold=chosen.threshold,
        tile=chosen.tile,
        overlap=0.2 if chosen.overlap is None else chosen.overlap,
        tta=chosen.tta,
    )
    ask([])  # what is wrong with these options is wrong before the first picture is read
    top = chosen.top or 3
    broken: list[str] = []
    read = 0
    with ExitStack() as stack:
        folder = stack.enter_context(Folder(chosen.save, files, predictor, numbers, top)) if chosen.save else None
        for are_films, group in itertools.groupby(range(len(files)), key=lambda i: _is_film(files[i])):
            places = list(group)
            if are_films:
                for place in places:
                    read += _film(files[place], place, ask, predictor, chosen, folder, broken)
                continue
            answers = _watched(ask([files[i] for i in places]), len(places), shown=len(places) >= 50 or chosen.tile > 0)
            for place, answer in zip(places, answers, strict=True):
                if isinstance(answer, Prediction):
                    read += 1
                    answer.id = ids[place]
                    print(f"{answer.path}  {_said(answer, predictor.classes, top)}")
                    if folder:
                        folder.add(place, answer)
                elif chosen.strict:
                    raise answer
                else:
                    broken.append(str(answer))
                    print(f"left out: {answer}")
        if broken:
            kind = "files" if films else "pictures"
            print(f"{len(broken)} of {len(files)} {kind} could not be read and were left out")
        if not read:
            raise VertebraError(f"none of the {'files' if films else 'pictures'} could be read.")
    if folder:
        if chosen.embeddings:
            folder.embed()
        print(folder.summary())


def _check(chosen: Any, films: Sequence[Path]) -> None:
    """What can be said of the options before the model is known."""
    for flag in ("embeddings", "annotations"):
        if getattr(chosen, flag) and not chosen.save:
            raise VertebraError(f"--{flag} needs --save=FOLDER to write to.")
        if getattr(chosen, flag) and films:
            raise VertebraError(f"--{flag} is for pictures, and {films[0]} is a film.")
    written = chosen.annotations and expanded(chosen.save) / "images.json"
    if written and written.resolve() == expanded(chosen.annotations).resolve():
        raise VertebraError(f"{chosen.annotations} would be overwritten: choose another folder to save to.")
    for flag in ("top", "every", "batch_size"):
        if (number := getattr(chosen, flag)) is not None and number < 1:
            raise VertebraError(f"--{flag} is {number}; it must be 1 or more.")
    if chosen.overlap is not None and not chosen.tile:
        raise VertebraError("--overlap is of tiles: it needs --tile=PIXELS.")
    if chosen.every is not None and not films:
        raise VertebraError(f"--every is for films ({', '.join(video.SUFFIXES)}), and none is given.")
    if films:
        video.library()


def _check_task(chosen: Any, predictor: Predictor) -> None:
    flags = {"top": "classify", "embeddings": "classify"}
    if not predictor.finds_objects:
        flags = dict.fromkeys(("threshold", "tile", "overlap", "annotations"), "find objects")
    for flag, use in flags.items():
        if getattr(chosen, flag) not in (None, False, 0) or (flag == "threshold" and chosen.threshold == 0):
            raise VertebraError(f"--{flag} is for models that {use}; this one is for {predictor.task.name}.")


def _is_film(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _files(words: Sequence[str]) -> Iterator[Path]:
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = pictures.find(path, (*pictures.SUFFIXES, *video.SUFFIXES))
            if not inside:
                raise VertebraError(f"{path} holds no pictures ({', '.join(pictures.SUFFIXES)}).")
            yield from inside
        elif path.is_file():
            yield path
        elif matches := sorted(glob.glob(word, recursive=True)):
            for match in map(Path, matches):
                yield from pictures.find(match, (*pictures.SUFFIXES, *video.SUFFIXES)) if match.is_dir() else [match]
        else:
            raise VertebraError(f"{word} is neither a file, a folder nor a pattern that matches one.")


def _watched(answers: Iterator[Any], total: int | None, *, shown: bool) -> Iterable[Any]:
    """With a bar, where people look: in a pipe there is only what is printed."""
    return track(answers, "predicting", total=total, disable=not (shown and sys.stdout.isatty()), transient=True)


def _said(prediction: Prediction, classes: Sequence[str], top: int) -> str:
    if prediction.labels is None:
        return "  ".join(f"{classes[i]} {p:.3f}" for i, p in prediction.top(top))
    return _counted(Counter(prediction.labels.tolist()), classes)


def _counted(labels: Counter[int], classes: Sequence[str]) -> str:
    most_first = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {classes[label]}" for label, count in most_first) or "nothing"


def _film(
    path: Path,
    place: int,
    ask: Callable[[Iterable[Tensor]], Iterator[Any]],
    predictor: Predictor,
    chosen: Any,
    folder: Folder | None,
    broken: list[str],
) -> int:
    """Asks about a film's frames and says what is in all of them; the number of frames that could be read."""
    step = chosen.every or 1
    waiting: deque[tuple[int, Tensor]] = deque()  # frames that were read and are not yet answered
    damage: list[pictures.BrokenPicture] = []

    def shown(film: video.Film) -> Iterator[Tensor]:
        try:
            for number, frame in video.frames(film, step):
                waiting.append((number, frame))
                yield frame
        except pictures.BrokenPicture as error:  # the frames before it count
            damage.append(error)

    labels: Counter[int] = Counter()
    count = 0
    with ExitStack() as stack:
        try:
            film = video.look(path)
        except pictures.BrokenPicture as error:
            damage.append(error)
        else:
            writer = stack.enter_context(folder.film(place, film.rate / step)) if folder else None
            for answer in _watched(ask(shown(film)), -(-film.frames // step) or None, shown=True):
                number, frame = waiting.popleft()
                answer.path = f"{path}#{number}"
                labels.update([answer.top(1)[0][0]] if answer.labels is None else answer.labels.tolist())
                count += 1
                if writer:
                    writer(frame, answer)
    if not count and not damage:
        damage.append(pictures.BrokenPicture(f"{path}: not one picture could be read from this film."))
    if damage and chosen.strict:
        raise damage[0]
    if count:
        print(f"{path}  {count} frame{'s' * (count > 1)}: {_counted(labels, predictor.classes)}")
    for sentence in map(str, damage):
        print(f"{'incomplete' if count else 'left out'}: {sentence}")
        if not count:
            broken.append(sentence)
    return count
