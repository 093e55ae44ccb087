"""Texts and pairs of sentences: the sample, and how it enters a network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vertebra.data.catalogue import Sample
from vertebra.data.geometry import Example
from vertebra.structures import Frame, Target
from vertebra.text import PAD, Vocabulary, pad_texts

MAX_LENGTH = 10_000
"""Characters of a sentence; beyond it a line is no sentence."""
MAX_RATIO = 9
"""Of the lengths of the two sides of a pair in characters; where both have SHORT or fewer, any ratio is usual."""
SHORT = 20
BUCKET = 8
"""Source sentences whose lengths differ by fewer tokens share training batches."""
TEXT_BUCKET = 64
"""Texts whose padded numbers of tokens differ by less share batches."""


@dataclass(frozen=True, repr=False)
class TextSample(Sample):
    """A text; if there is a question, it stands behind it after a tab."""

    source: str = ""

    @property
    def size(self) -> None:
        """None: a text has no pixels."""
        return None


@dataclass(frozen=True, repr=False)
class SentencePair(TextSample):
    """A source sentence, and in `target.text` its translation."""


def text_sample(text: str, question: str, label: int, where: str, alignment: Tensor | None = None) -> TextSample:
    """A sample of a class; arguments as for `pair`. Tabs become spaces."""
    source = text.replace("\t", " ") + (f"\t{question}" if question else "")
    target = Target(label=torch.tensor(label), alignment=alignment, path=where)
    return TextSample(torch.zeros(0), target, source=source)


def pair(source: str, text: str, where: str, alignment: Tensor | None = None) -> SentencePair:
    """A sample; `where` names it in messages, such as `pairs.tsv, line 3`."""
    return SentencePair(torch.zeros(0), Target(text=text, alignment=alignment, path=where), source=source)


def problem(source: str, text: str) -> str:
    """What is wrong with a pair, to stand behind the name of its line; empty if nothing is."""
    sides = {"source": source, "target": text}
    for name, side in sides.items():
        if not side.strip():
            return f"the {name} is empty"
        if "�" in side or "\0" in side:  # NUL is every second byte of UTF-16
            return f"the {name} is not UTF-8"
        if len(side) > MAX_LENGTH:
            return f"the {name} has {len(side):,} characters, more than {MAX_LENGTH:,}"
    short, long = sorted(map(len, sides.values()))
    if long > SHORT and long > MAX_RATIO * short:
        return f"source and target have {len(source)} and {len(text)} characters, which is no translation"
    return ""


class TextInputs:
    """Texts as a loader reads them, once their `image` holds token ids [R, W]; see `inputs.Inputs`."""

    def read(self, sample: Sample) -> Example:
        assert isinstance(sample.image, Tensor)
        return Example(sample.image, sample.target)

    def prepare(self, example: Example) -> tuple[Tensor, Frame]:
        size = (1, *example.image.shape)[-2:]
        return example.image, Frame(size, size)

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """[B, R, W] int64, filled with PAD."""
        return pad_texts(inputs)

    def groups(self, samples: Sequence[Sample], *, training: bool) -> list[Hashable]:
        """Texts of similar size."""
        return [sample.image.numel() // TEXT_BUCKET for sample in samples if isinstance(sample.image, Tensor)]


class SentenceInputs(TextInputs):
    """Sentences as a loader reads them, once they are `tokenized`."""

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """[B, S] int64, short sentences filled with PAD."""
        return pad_sequence(list(inputs), batch_first=True, padding_value=PAD)

    def groups(self, samples: Sequence[Sample], *, training: bool) -> list[Hashable]:
        """Sentences of similar length; in evaluation those of one length, so that none is padded."""
        lengths = [len(sample.image) for sample in samples if isinstance(sample.image, Tensor)]
        return [length // BUCKET if training else length for length in lengths]


def tokenized(sample: Sample, source: Vocabulary, target: Vocabulary) -> SentencePair:
    """The pair with the ids of its source sentence as `image`, [S] int64, and those of its target as `tokens`; both end
    with END."""
    assert isinstance(sample, SentencePair)
    answer = sample.target
    if answer.text is not None:
        answer = replace(answer, tokens=target.encode_ended(answer.text))
    return replace(sample, image=source.encode_ended(sample.source), target=answer)


def sides(samples: Iterable[Sample]) -> Iterator[tuple[str, str]]:
    """Source and target of each sample."""
    for sample in samples:
        assert isinstance(sample, SentencePair)
        assert sample.target.text is not None
        yield sample.source, sample.target.text
