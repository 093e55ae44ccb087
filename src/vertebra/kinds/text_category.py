"""Classes of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import torch

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.sentences import TextSample
from vertebra.errors import VertebraError, in_range
from vertebra.kinds.one_class import OneClass
from vertebra.kinds.texts import TextKind
from vertebra.metrics.evaluation import SHOWN, Evaluation
from vertebra.structures import Prediction, Target
from vertebra.tasks import Task
from vertebra.tasks.text_classifier import TextClassifier
from vertebra.text import MAX_SIZE, PAD, SMALLEST, UNKNOWN, Vocabulary


@dataclass
class TextData:
    """The vocabulary, which is learned from the training texts."""

    vocabulary: Literal["word", "bpe", "character"] = "word"
    """Tokens: words and punctuation marks, merged byte pairs, or characters."""
    vocabulary_size: int = 20_000
    """Tokens of the vocabulary at most, the most frequent ones."""
    max_tokens: int = 2000
    """Training texts with more tokens are left out."""

    def __post_init__(self) -> None:
        in_range("data.vocabulary_size", self.vocabulary_size, SMALLEST[self.vocabulary], MAX_SIZE)
        in_range("data.max_tokens", self.max_tokens, 1, 100_000)


class TextCategory(TextKind, OneClass):
    """One class per text, with the probability of every class and the weight of every word."""

    description = "classes of texts"
    items = "texts"
    options = frozenset({"top"})
    data = TextData
    text = "text"
    lines_file = "classes.txt"
    page = "Attention"
    next_command = "vertebra predict {} texts.txt --save=out/"
    instead = "reads texts: give them to `predict_texts`"

    # -- data

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: TextData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """The texts as token ids; in training without those of more than `max_tokens`. Those that the task cannot read
        are listed as problems."""
        assert isinstance(task, TextClassifier)
        limit = (data or TextData()).max_tokens
        samples: list[Sample] = []
        unknown = total = long = 0
        for sample in catalogue.split(split):
            assert isinstance(sample, TextSample)
            try:
                ids = task.text_ids(sample.source, sample.target.path)
            except VertebraError as error:
                catalogue.problems.append(str(error))
                continue
            count = int((ids != PAD).sum())
            if training and count > limit:
                long += 1
                continue
            unknown += int((ids == UNKNOWN).sum())
            total += count
            samples.append(replace(sample, image=ids, target=_by_token(sample, count, task.vocabulary)))
        if long:
            catalogue.notes.append(f"{split}: {long} texts have more than {limit} tokens and are left out")
        if unknown:
            catalogue.notes.append(f"{split}: {unknown} of {total} tokens are not in the vocabulary")
        if not samples:
            reason = f"raise data.max_tokens, which is {limit}" if long else catalogue.problems[-1]
            raise VertebraError(f"no text of the {split} split of {catalogue.path} can be read: {reason.rstrip('.')}.")
        return samples

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """The vocabulary of texts and classes, and with `balance` a weight per class."""
        data = data or TextData()
        texts = [sample.source for sample in catalogue.split("train") if isinstance(sample, TextSample)]
        vocabulary = Vocabulary.learn([*texts, *catalogue.classes], data.vocabulary, data.vocabulary_size)
        return {"vocabulary": vocabulary.content, **super().model_options(catalogue, balance)}

    # -- predictions

    def line(self, prediction: Prediction, classes: Sequence[str]) -> str:
        return classes[prediction.top(1)[0][0]]

    def html(self, source: str, prediction: Prediction, classes: Sequence[str]) -> str:
        from vertebra.viz import alignment

        assert prediction.alignment is not None
        return f"<p><b>{escape(self.summarize([prediction], classes))}</b></p>{alignment.text(prediction.alignment)}"

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`classes`: the top classes, each with `class` and `probability`; `words`: each word with its `weight`, the
        mean of all heads and layers."""
        record = super().record(prediction, classes, top)
        if (alignment := prediction.alignment) is not None:
            pairs = zip(alignment.source, alignment.mean[0].tolist(), strict=True)
            record["words"] = [{"word": word, "weight": round(weight, 6)} for word, weight in pairs]
        return record

    # -- evaluation

    def most_wrong(self, evaluation: Evaluation, samples: Sequence[Sample]) -> str:
        """HTML of the texts with the largest errors, each coloured by the weights of its words."""
        from vertebra.viz import alignment

        worst = evaluation.worst(SHOWN)
        if not worst:
            return "<p>No text was classified wrongly.</p>"
        parts = []
        for row in worst:
            parts.append(f"<p>{escape(row['path'])}: {self.error_text(row, evaluation.classes)}</p>")
            prediction = evaluation.predictions.get(row["index"])
            if prediction is not None and prediction.alignment is not None:
                parts.append(alignment.text(prediction.alignment))
        return "".join(parts)


def _by_token(sample: TextSample, count: int, vocabulary: Vocabulary) -> Target:
    """The target with its `alignment` counted in the `count` tokens that the network reads, the question's first."""
    known = sample.target.alignment
    if known is None:
        return sample.target
    text = sample.source.rpartition("\t")[0] or sample.source
    places = vocabulary.encode_text(text)[1]
    characters = known[0].tolist()
    tokens = [False] * (count - len(places)) + [any(characters[first:end]) for first, end in places]
    return replace(sample.target, alignment=torch.tensor([tokens]))


KIND = TextCategory()
