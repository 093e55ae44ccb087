"""The built-in stories with questions, in the manner of bAbI (arXiv:1502.05698): where is a person, where is a thing?

A story says of four people, in any order, what they hold and where they are. Where a person is, one sentence says;
where a thing is, two: who holds it, and where that person is. Half of the questions are of each sort. The sentences
that answer a question are known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions
from vertebra.data.sentences import text_sample

PRIORITY = 0
GENERATED = True
FIELDS = frozenset({"label"})
TITLE = "the built-in stories"
COUNTS = {"train": 4000, "val": 400}
"""Stories of each split; none of val is in train."""
PEOPLE = ("Daniel", "John", "Mary", "Sandra")
OBJECTS = ("apple", "ball", "book", "milk")
PLACES = ("garden", "hall", "kitchen", "office")


def recognise(path: Path) -> bool:
    """Never: the data has no path."""
    return False


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The stories, the same for one seed."""
    drawn = _stories(random.Random(options.seed))
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    taken: set[tuple[str, str]] = set()
    for split in ("val", "train"):
        while len(splits[split]) < COUNTS[split]:
            text, question, label, facts = next(drawn)
            if (text, question) not in taken:
                taken.add((text, question))
                splits[split].append(text_sample(text, question, label, f"{split} {len(splits[split]) + 1}", facts))
    return Catalogue("stories", "stories", PLACES, splits, has=FIELDS, items="texts")


def _stories(random: random.Random) -> Iterator[tuple[str, str, int, Tensor]]:
    """Story, question, class of the answer, and the characters [1, S] of the sentences that give it, without end."""
    while True:
        people, objects, places = (random.sample(names, 4) for names in (PEOPLE, OBJECTS, PLACES))
        holding = [f"{person} has the {thing}." for person, thing in zip(people, objects, strict=True)]
        being = [f"{person} is in the {place}." for person, place in zip(people, places, strict=True)]
        sentences = random.sample(holding + being, 8)
        text = " ".join(sentences)
        one_fact = random.random() < 0.5
        question = f"Where is {people[0]}?" if one_fact else f"Where is the {objects[0]}?"
        facts = torch.zeros(1, len(text), dtype=torch.bool)
        for sentence in being[:1] if one_fact else (being[0], holding[0]):
            start = text.index(sentence)
            facts[0, start : start + len(sentence)] = True
        yield text, question, PLACES.index(places[0]), facts
