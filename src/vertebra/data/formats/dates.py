"""The built-in sentences: dates and numbers as 16 languages write them, to ISO 8601 and plain digits.

Which characters of the source each character of the target stands for is known, so alignments can be checked. Every
form can be read in one way only: two-digit years are those from 1950 to 2049, and no date of the United States has the
month first in digits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.data.sentences import pair
from vertebra.errors import VertebraError

PRIORITY = 0
GENERATED = True
FIELDS = frozenset({"text"})
TITLE = "the built-in dates and numbers"
COUNTS = {"train": 8000, "val": 800}
"""Pairs of each split; no source of val is in train."""
LOCALES = ("en_US", "en_GB", "de", "fr", "es", "it", "nl", "pt", "sv", "pl", "fi", "da", "cs", "tr", "hu", "ro")
FORMS: tuple[Literal["short", "medium", "long", "full"], ...] = ("short", "medium", "long", "full")
FIRST, LAST = date(1950, 1, 1).toordinal(), date(2049, 12, 31).toordinal()
NUMBER_SHARE = 0.1
"""Share of numbers among the pairs."""
PARTS = {"y": "year", "M": "month", "L": "month", "d": "day"}
"""Letters of a date's pattern that say part of it."""


def recognise(path: Path) -> bool:
    """Never: the data has no path."""
    return False


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The pairs, the same for one seed.

    Raises:
        VertebraError: if the package babel is not installed.
    """
    drawn = _pairs(random.Random(options.seed))
    splits: dict[str, list[Sample]] = {}
    taken: set[str] = set()
    for split in ("val", "train"):
        samples: list[Sample] = []
        while len(samples) < COUNTS[split]:
            source, text, alignment = next(drawn)
            if source not in taken:
                taken.add(source)
                samples.append(pair(source, text, f"{split} {len(samples) + 1}", alignment))
        splits[split] = samples
    return Catalogue(
        "dates", "dates", ("sentence",), dict(reversed(splits.items())), has=FIELDS, items="sentence pairs"
    )


def _pairs(random: random.Random) -> Iterator[tuple[str, str, Tensor]]:
    """Source, target and alignment [T, S] without end."""
    try:
        from babel import Locale
        from babel.dates import DateTimeFormat, get_date_format, tokenize_pattern
        from babel.numbers import format_decimal
    except ImportError as error:
        raise VertebraError("the built-in dates need the package babel: pip install 'vertebra[text]'") from error
    locales = {name: Locale.parse(name) for name in LOCALES}
    patterns = {
        (name, form): tokenize_pattern(get_date_format(form, locale=locales[name]).pattern)
        for name in LOCALES
        for form in FORMS
        if (name, form) != ("en_US", "short")
    }
    choices = list(patterns)
    while True:
        if random.random() < NUMBER_SHARE:
            cents = random.randrange(100_000, 100_000_000)
            text = f"{cents // 100}.{cents % 100:02}"
            yield _number(format_decimal(cents / 100, "#,##0.00", locale=locales[random.choice(LOCALES)]), text)
            continue
        day = date.fromordinal(random.randint(FIRST, LAST))
        name, form = random.choice(choices)
        source, spans = "", {}
        for _, value in patterns[name, form]:
            if isinstance(value, str):
                source += value
                continue
            letter, count = value
            written = DateTimeFormat(day, locales[name])[letter * count]
            if letter in PARTS:
                spans[PARTS[letter]] = (len(source), written)
            source += written
        yield source, day.isoformat(), _date_alignment(len(source), spans)


def _date_alignment(length: int, spans: dict[str, tuple[int, Any]]) -> Tensor:
    """The last two digits of the year stand for its last two, those of century, month and day for all that says them;
    hyphens for nothing."""
    alignment = torch.zeros(len("2000-01-01"), length, dtype=torch.bool)
    start, written = spans["year"]
    alignment[0:2, start : start + 2] = True  # a year of two digits says its century too
    for row in (2, 3):
        alignment[row, start + len(written) - 4 + row] = True
    for part, row in (("month", 5), ("day", 8)):
        start, written = spans[part]
        alignment[row : row + 2, start : start + len(written)] = True
    return alignment


def _number(source: str, text: str) -> tuple[str, str, Tensor]:
    """Digits stand for digits, the decimal point for the last separator."""
    alignment = torch.zeros(len(text), len(source), dtype=torch.bool)
    places = [i for i, character in enumerate(source) if character.isdigit()]
    rows = [i for i, character in enumerate(text) if character.isdigit()]
    alignment[rows, places] = True
    alignment[len(text) - 3, len(source) - 3] = True
    return source, text, alignment
