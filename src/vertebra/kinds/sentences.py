"""Sentences, such as translations of others."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape as escape_markup
from rich.table import Column, Table
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.sentences import SentenceInputs, SentencePair, sides, tokenized
from vertebra.errors import VertebraError, escaped, in_range, shown
from vertebra.kinds.texts import TextKind, listed
from vertebra.metrics.evaluation import SHOWN, Evaluation
from vertebra.structures import Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.text import MAX_SIZE, SMALLEST, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class SentencesData:
    """The vocabularies, which are learned from the training sentences."""

    vocabulary: Literal["bpe", "word", "character"] = "bpe"
    """Tokens: merged byte pairs, words and punctuation marks, or characters."""
    vocabulary_size: int = 8000
    """Tokens of each vocabulary at most, the most frequent ones."""
    shared_vocabulary: bool = False
    """One vocabulary for both sides, learned from all sentences."""
    max_tokens: int = 256
    """Training pairs with more tokens on a side are left out."""

    def __post_init__(self) -> None:
        in_range("data.vocabulary_size", self.vocabulary_size, SMALLEST[self.vocabulary], MAX_SIZE)
        in_range("data.max_tokens", self.max_tokens, 1, 100_000)


class Sentences(TextKind):
    """A sentence for each sentence."""

    target_field = "text"
    description = "sentences"
    items = "sentence pairs"
    has_classes = False
    data = SentencesData
    text = "sentence"
    lines_file = "translations.txt"
    page = "Alignments"
    next_command = "vertebra predict {} sentences.txt --save=out/"
    instead = "reads sentences: give them to `translate`"

    # -- data

    def inputs(self, preprocess: Preprocess) -> SentenceInputs:
        return SentenceInputs()

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: SentencesData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """The pairs as token ids; in training without those of more than `max_tokens`."""
        source, target = _vocabularies(task)
        pairs = [tokenized(sample, source, target) for sample in catalogue.split(split)]
        unknown = total = 0
        for sample in pairs:
            assert isinstance(sample.image, Tensor)
            assert sample.target.tokens is not None
            for tokens in (sample.image, sample.target.tokens):
                unknown += int((tokens == UNKNOWN).sum())
                total += len(tokens)
        if unknown:
            catalogue.notes.append(f"{split}: {unknown} of {total} tokens are not in the vocabularies")
        if not training:
            return list(pairs)
        limit = (data or SentencesData()).max_tokens
        kept = [s for s in pairs if max(len(s.image), len(s.target.tokens)) <= limit]  # type: ignore[arg-type]
        if len(kept) < len(pairs):
            catalogue.notes.append(
                f"{split}: {len(pairs) - len(kept)} of {len(pairs)} pairs have more than {limit} tokens on a side and "
                "are left out"
            )
        if not kept:
            raise VertebraError(
                f"no pair of the {split} split of {catalogue.path} has at most {limit} tokens on each side: raise "
                "data.max_tokens."
            )
        return list(kept)

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """The vocabularies of both sides."""
        data = data or SentencesData()
        pairs = list(sides(catalogue.split("train")))
        sources, targets = [source for source, _ in pairs], [text for _, text in pairs]
        if data.shared_vocabulary:
            content = Vocabulary.learn(sources + targets, data.vocabulary, data.vocabulary_size).content
            return {"source_vocabulary": content, "target_vocabulary": content}
        return {
            "source_vocabulary": Vocabulary.learn(sources, data.vocabulary, data.vocabulary_size).content,
            "target_vocabulary": Vocabulary.learn(targets, data.vocabulary, data.vocabulary_size).content,
        }

    # -- predictions

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        return [(prediction.text or "", 0.0)]

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        return "  ".join(prediction.text or "" for prediction in predictions)

    def line(self, prediction: Prediction, classes: Sequence[str]) -> str:
        return prediction.text or ""

    def figures(self, prediction: Prediction) -> dict[str, Figure]:
        from vertebra.viz import alignment

        if prediction.alignment is None:
            return {}
        drawn = {"": alignment.matrix(prediction.alignment)}
        if prediction.alignment.weights.shape[:2] != (1, 1):
            drawn["-heads"] = alignment.heads(prediction.alignment)
        return drawn

    def html(self, source: str, prediction: Prediction, classes: Sequence[str]) -> str:
        from vertebra.viz import alignment

        assert prediction.alignment is not None
        named = listed({"source": source, "translation": prediction.text or ""})
        return f"{named}{alignment.table(prediction.alignment)}"

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`translation`, and for each token of it, `alignment`: the token, the source token it looks at most, and the
        weight of that."""
        record: dict[str, Any] = {"translation": prediction.text}
        if (alignment := prediction.alignment) is not None:
            weights, places = alignment.matrix.max(1)
            record["alignment"] = [
                {"token": token, "source": alignment.source[place], "weight": round(weight, 6)}
                for token, place, weight in zip(alignment.target, places.tolist(), weights.tolist(), strict=True)
            ]
        return record

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        if evaluation.rows and "prediction" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def most_wrong(self, evaluation: Evaluation, samples: Sequence[Sample]) -> str:
        """HTML of the translations with the largest errors, each over its alignment."""
        from vertebra.viz import alignment

        worst = evaluation.worst(SHOWN)
        if not worst:
            return "<p>No sentence was translated wrongly.</p>"
        parts = []
        for row in worst:
            sample = samples[row["index"]]
            assert isinstance(sample, SentencePair)
            lines = {"source": sample.source, "translation": row["prediction"], "reference": row["target"]}
            parts.append(f"<p>{escape(row['path'])}</p>{listed(lines)}")
            prediction = evaluation.predictions.get(row["index"])
            if prediction is not None and prediction.alignment is not None:
                parts.append(alignment.table(prediction.alignment))
        return "".join(parts)

    # -- `vertebra data`

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        return "" if target.text == other.text else f"other targets, {shown(target.text)} and {shown(other.text)}"

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """Pairs, and the lengths of their sides, by split."""
        table = Table(Column("", overflow="fold"), title=escape_markup(f"{catalogue.path} ({catalogue.format})"))
        for split in catalogue.splits:
            table.add_column(split, justify="right", overflow="fold")
        both = {split: list(sides(samples)) for split, samples in catalogue.splits.items()}
        table.add_row("pairs", *(str(len(pairs)) for pairs in both.values()))
        for number, name in enumerate(("source", "target")):
            lengths = [[len(pair[number]) for pair in pairs] for pairs in both.values()]
            table.add_row(
                f"characters of the {name}, median (maximum)",
                *(f"{statistics.median(of_split):g} ({max(of_split)})" for of_split in lengths),
            )
        return [table]

    def notes(self, catalogue: Catalogue) -> list[str]:
        """Characters of validation sentences that training has not, which no vocabulary of characters learns."""
        known = {character for pair in sides(catalogue.splits.get("train", [])) for side in pair for character in side}
        others = {
            character
            for split, samples in catalogue.splits.items()
            if split != "train"
            for pair in sides(samples)
            for side in pair
            for character in side
        }
        if not known or not (new := sorted(others - known)):
            return []
        return [f"{len(new)} characters do not occur in train: {escaped(' '.join(new[:20]))}"]


def _vocabularies(task: Task) -> tuple[Vocabulary, Vocabulary]:
    source, target = getattr(task, "source", None), getattr(task, "target", None)
    assert isinstance(source, Vocabulary)
    assert isinstance(target, Vocabulary)
    return source, target


KIND = Sentences()
