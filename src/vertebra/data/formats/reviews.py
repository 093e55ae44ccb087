"""The built-in texts: reviews of hotels, whose class is what they say of the room; the same for everyone.

Every review has one sentence on the room among others on the breakfast, the pool and so on, which are judged in the
same words and say nothing of the class. So the words that decide are known, and attention can be checked.
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
TITLE = "the built-in reviews"
COUNTS = {"train": 800, "val": 200}
"""Texts of each split; none of val is in train."""
CLASSES = ("negative", "neutral", "positive")
WORDS = {
    "negative": ("awful", "dirty", "disappointing", "horrible", "poor", "terrible"),
    "neutral": ("acceptable", "average", "fair", "ordinary", "passable", "usual"),
    "positive": ("excellent", "great", "lovely", "perfect", "superb", "wonderful"),
}
OTHERS = ("bar", "breakfast", "car park", "dinner", "garden", "lift", "location", "lobby", "pool", "service", "view")
"""What else is judged."""
VERBS = ("was", "seemed", "looked", "felt")
PLAIN = (
    "We stayed for two nights.",
    "My sister came with us.",
    "It rained on the last day.",
    "The town is not far away.",
    "We took the train from the airport.",
    "It was our third visit.",
    "I had booked in March.",
)
"""Sentences that judge nothing."""


def recognise(path: Path) -> bool:
    """Never: the data has no path."""
    return False


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The texts, the same for one seed."""
    drawn = _texts(random.Random(options.seed))
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    taken: set[str] = set()
    for split in ("val", "train"):
        while len(splits[split]) < COUNTS[split]:
            text, label, key = next(drawn)
            if text not in taken:
                taken.add(text)
                splits[split].append(text_sample(text, "", label, f"{split} {len(splits[split]) + 1}", key))
    return Catalogue("reviews", "reviews", CLASSES, splits, has=FIELDS, items="texts")


def _texts(random: random.Random) -> Iterator[tuple[str, int, Tensor]]:
    """Text, class and the characters [1, S] of the words that decide it, without end."""
    while True:
        label = random.randrange(len(CLASSES))
        key = f"room {random.choice(VERBS)} {random.choice(WORDS[CLASSES[label]])}"
        sentences = [f"The {key}."]
        for thing in random.sample(OTHERS, random.randint(2, 4)):
            words = WORDS[random.choice(CLASSES)]
            sentences.append(f"The {thing} {random.choice(VERBS)} {random.choice(words)}.")
        sentences += random.sample(PLAIN, random.randint(0, 2))
        random.shuffle(sentences)
        text = " ".join(sentences)
        deciding = torch.zeros(1, len(text), dtype=torch.bool)
        start = text.index(key)
        deciding[0, start : start + len(key)] = True
        yield text, label, deciding
