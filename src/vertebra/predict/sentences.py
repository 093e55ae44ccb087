"""What `vertebra predict` does with a model that reads texts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded, read_text, replacing
from vertebra.kinds.texts import TextKind
from vertebra.progress import track
from vertebra.structures import Prediction

if TYPE_CHECKING:
    from vertebra.predict.predictor import Predictor

MAX_BYTES = 1 << 30
"""Of a file of texts."""
MAX_DRAWN = 200
"""Texts that are drawn."""
TABLES = (".tsv", ".csv", ".json", ".jsonl")
"""Endings of files whose lines hold more than a text."""
SUFFIXES = (".txt", *TABLES)
"""Endings of words that are meant as files."""


def lines(sources: Sequence[str]) -> Iterator[str]:
    """The texts that words of the command line stand for: the lines of a file, or of standard input if the word is
    `-`, or else the word itself. Empty lines stay, so that line N of the output belongs to line N of the input.

    Raises:
        VertebraError: if a file cannot be read, or is a table or a folder.
    """
    for word in sources:
        if word == "-":
            yield from (line.rstrip("\n") for line in sys.stdin)
        elif _is_file(word) and Path(word).suffix.lower() in TABLES:
            raise VertebraError(
                f"{word} is a table: give its texts alone, a line each, such as `cut -f1 pairs.tsv | vertebra predict "
                "MODEL -`."
            )
        elif os.path.isdir(expanded(word)):
            raise VertebraError(f"{word} is a folder: give its files, such as {Path(word) / '*.txt'}.")
        elif _is_file(word):
            text = read_text(expanded(word), MAX_BYTES)
            yield from text.removesuffix("\n").split("\n")
        elif Path(word).suffix.lower() in SUFFIXES and not any(map(str.isspace, word)):
            raise VertebraError(f"{word} is not there.")
        else:
            yield word


def _is_file(word: str) -> bool:
    return os.path.isfile(expanded(word))  # Path.is_file fails for a sentence that is too long for a name


def predict(
    predictor: Predictor, sources: Sequence[str], *, save: str | None, batch_size: int, strict: bool, top: int = 3
) -> None:
    """Prints the prediction for every text; with `save`, also writes a line for each, `predictions.json`, and where the
    model looks, as a page and as images.

    Raises:
        VertebraError: if a source cannot be read, no text is there, or `strict` and one cannot be read by the model.
    """
    kind = predictor.kind
    assert isinstance(kind, TextKind)
    texts = list(lines(sources))
    if not any(text.strip() for text in texts):
        raise VertebraError(f"there is no {kind.text}.")
    folder = None if save is None else expanded(save)
    given = {expanded(word).resolve() for word in sources if word != "-" and _is_file(word)}
    if folder and (clash := given & {(folder / name).resolve() for name in (kind.lines_file, "predictions.json")}):
        raise VertebraError(f"{next(iter(clash))} would be overwritten: choose another folder to save to.")
    good, problems = _checked(predictor, texts, strict)
    predictions: dict[int, Prediction] = {}
    results = predictor.predict_texts([texts[i] for i in good], batch_size=batch_size)
    for i, prediction in track(zip(good, results, strict=True), "predicting", len(good)):
        predictions[i] = prediction
        if folder is None:
            print(escaped(kind.summarize([prediction], predictor.classes, top)), flush=True)
    for i, problem in problems.items():
        print(escaped(f"skipped: line {i + 1}: {problem}"), file=sys.stderr)
    if folder is not None:
        _save(folder, kind, predictor.classes, texts, predictions, top)


def _checked(predictor: Predictor, texts: Sequence[str], strict: bool) -> tuple[list[int], dict[int, str]]:
    """The indices of the texts that the model can read, and what is wrong with the others that are not empty."""
    good, problems = [], {}
    for i, text in enumerate(texts):
        if not text.strip():
            continue
        try:
            predictor.check_text(text, f"line {i + 1}")
        except VertebraError as error:
            if strict:
                raise
            problems[i] = str(error)
        else:
            good.append(i)
    return good, problems


def _save(
    folder: Path,
    kind: TextKind,
    classes: Sequence[str],
    texts: Sequence[str],
    predictions: dict[int, Prediction],
    top: int,
) -> None:
    from vertebra.viz import fonts, report

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / kind.lines_file) as temporary:
        content = (
            " ".join(kind.line(predictions[i], classes).splitlines()) if i in predictions else ""
            for i in range(len(texts))
        )
        temporary.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    records = [
        {"line": i + 1, "source": texts[i], **kind.record(prediction, classes, top)}
        for i, prediction in predictions.items()
    ]
    with replacing(folder / "predictions.json") as temporary:
        temporary.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    drawn = [(i, p) for i, p in list(predictions.items())[:MAX_DRAWN] if p.alignment is not None]
    parts = [f"<h1>{kind.page}</h1>"]
    name = kind.page.lower()
    written = [kind.lines_file, "predictions.json", f"{name}.html"]
    for i, prediction in track(drawn, "drawing"):
        for ending, figure in kind.figures(prediction).items():
            (folder / name).mkdir(exist_ok=True)
            fonts.apply(figure)
            with replacing(folder / name / f"{i + 1:06}{ending}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=110)
            written[3:] = [f"images in {name}"]
        parts.append(kind.html(texts[i], prediction, classes))
    report.write_page(folder / f"{name}.html", kind.page, parts)
    more = f" (the first {MAX_DRAWN} are drawn)" if len(predictions) > MAX_DRAWN else ""
    *others, last = written
    plural = "s" * (len(predictions) != 1)
    print(f"{len(predictions)} {kind.text}{plural}: {', '.join(others)} and {last} in {folder}{more}")
