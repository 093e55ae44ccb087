"""What `vertebra predict` does with a model that reads sentences."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded, read_text, replacing
from vertebra.progress import track
from vertebra.structures import Prediction

if TYPE_CHECKING:
    from vertebra.predict.predictor import Predictor

MAX_BYTES = 1 << 30
"""Of a file of sentences."""
MAX_DRAWN = 200
"""Sentences whose alignments are drawn."""
SUFFIXES = (".txt", ".tsv", ".csv", ".json")
"""Endings of words that are meant as files."""


def lines(sources: Sequence[str]) -> Iterator[str]:
    """The sentences that words of the command line stand for: the lines of a file, or of standard input if the word is
    `-`, or else the word itself. Empty lines stay, so that line N of the output belongs to line N of the input.

    Raises:
        VertebraError: if a file cannot be read.
    """
    for word in sources:
        if word == "-":
            yield from (line.rstrip("\n") for line in sys.stdin)
        elif _is_file(word):
            text = read_text(expanded(word), MAX_BYTES)
            yield from text.removesuffix("\n").split("\n")
        elif Path(word).suffix.lower() in SUFFIXES and not any(map(str.isspace, word)):
            raise VertebraError(f"{word} is not there.")
        else:
            yield word


def _is_file(word: str) -> bool:
    return os.path.isfile(expanded(word))  # Path.is_file fails for a sentence that is too long for a name


def predict(predictor: Predictor, sources: Sequence[str], *, save: str | None, batch_size: int, strict: bool) -> None:
    """Prints the translation of every sentence; with `save`, also writes `translations.txt`, `predictions.json`, an
    image of each alignment in `alignments/` and `alignments.html`.

    Raises:
        VertebraError: if a source cannot be read, no sentence is there, or `strict` and one cannot be translated.
    """
    sentences = list(lines(sources))
    if not any(sentence.strip() for sentence in sentences):
        raise VertebraError("there is no sentence to translate.")
    folder = None if save is None else expanded(save)
    given = {expanded(word).resolve() for word in sources if word != "-" and _is_file(word)}
    if folder and (clash := given & {(folder / name).resolve() for name in ("translations.txt", "predictions.json")}):
        raise VertebraError(f"{next(iter(clash))} would be overwritten: choose another folder to save to.")
    good, problems = _checked(predictor, sentences, strict)
    translations: dict[int, Prediction] = {}
    results = predictor.translate([sentences[i] for i in good], batch_size=batch_size)
    for i, prediction in track(zip(good, results, strict=True), "translating", len(good)):
        translations[i] = prediction
        if folder is None:
            print(escaped(prediction.text or ""), flush=True)
    for i, problem in problems.items():
        print(escaped(f"skipped: line {i + 1}: {problem}"), file=sys.stderr)
    if folder is not None:
        _save(folder, predictor, sentences, translations)


def _checked(predictor: Predictor, sentences: Sequence[str], strict: bool) -> tuple[list[int], dict[int, str]]:
    """The indices of the sentences that can be translated, and what is wrong with the others that are not empty."""
    good, problems = [], {}
    for i, sentence in enumerate(sentences):
        if not sentence.strip():
            continue
        try:
            predictor.check_sentence(sentence, f"line {i + 1}")
        except VertebraError as error:
            if strict:
                raise
            problems[i] = str(error)
        else:
            good.append(i)
    return good, problems


def _save(folder: Path, predictor: Predictor, sentences: Sequence[str], translations: dict[int, Prediction]) -> None:
    from vertebra.viz import alignment, fonts, report

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "translations.txt") as temporary:
        temporary.write_text(
            "".join(f"{translations[i].text if i in translations else ''}\n" for i in range(len(sentences))),
            encoding="utf-8",
        )
    records = [
        {"line": i + 1, "source": sentences[i], **predictor.kind.record(prediction, predictor.classes)}
        for i, prediction in translations.items()
    ]
    with replacing(folder / "predictions.json") as temporary:
        temporary.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    drawn = [(i, p) for i, p in list(translations.items())[:MAX_DRAWN] if p.alignment is not None]
    parts = ["<h1>Alignments</h1>"]
    (folder / "alignments").mkdir(exist_ok=True)
    for i, prediction in track(drawn, "drawing"):
        assert prediction.alignment is not None
        figures = {"": alignment.matrix(prediction.alignment)}
        if prediction.alignment.weights.shape[:2] != (1, 1):
            figures["-heads"] = alignment.heads(prediction.alignment)
        for ending, figure in figures.items():
            fonts.apply(figure)
            with replacing(folder / "alignments" / f"{i + 1:06}{ending}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=110)
        named = "".join(
            f"<tr><td>{name}</td><td>{escape(escaped(text))}</td></tr>"
            for name, text in (("source", sentences[i]), ("translation", prediction.text or ""))
        )
        parts.append(f'<table class="sentences">{named}</table>{alignment.table(prediction.alignment)}')
    report.write_page(folder / "alignments.html", "Alignments", parts)
    more = f" (of the first {MAX_DRAWN})" if len(translations) > MAX_DRAWN else ""
    print(
        f"{len(translations)} sentence{'s' * (len(translations) != 1)}: translations.txt and predictions.json, and "
        f"alignments.html and alignments{more} in {folder}"
    )
