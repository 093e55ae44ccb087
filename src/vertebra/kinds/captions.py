"""Captions of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Reader, ReadSample, Sample
from vertebra.errors import escaped, in_range, shown
from vertebra.kinds.base import Kind
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import KeypointSchema, Prediction, Target
from vertebra.tasks import Task
from vertebra.tasks.captioner import Captioner
from vertebra.text import MAX_SIZE, SMALLEST, Vocabulary
from vertebra.viz import draw, looks


@dataclass
class CaptionsData:
    """The vocabulary, which is learned from the training captions."""

    vocabulary: Literal["word", "bpe", "character"] = "word"
    """Tokens: words and punctuation marks, merged byte pairs, or characters."""
    vocabulary_size: int = 10_000
    """Tokens of the vocabulary at most, the most frequent ones."""

    def __post_init__(self) -> None:
        in_range("data.vocabulary_size", self.vocabulary_size, SMALLEST[self.vocabulary], MAX_SIZE)


class _Captions(Reader):
    """The images and single captions of samples, with the ids of the tokens."""

    def __init__(self, places: Sequence[tuple[Sample, int]], vocabulary: Vocabulary, *, alone: bool) -> None:
        """`places` are samples, each with the number of a caption of it; unless `alone`, the others are references."""
        self.places, self.vocabulary, self.alone = places, vocabulary, alone

    def read(self, index: int) -> tuple[Tensor, Target]:
        sample, number = self.places[index]
        image = sample.image
        assert isinstance(image, Tensor)
        return image, self.target_of(sample.target, number)

    def name(self, index: int) -> str:
        return repr(self.places[index][0])

    def target_of(self, target: Target, number: int) -> Target:
        """The target with one of its captions."""
        texts = _texts(target)
        text = texts.pop(number)
        tokens = self.vocabulary.encode_ended(text)
        return replace(target, text=text, references=() if self.alone else tuple(texts), tokens=tokens)


class Captions(Kind):
    """A sentence for each image, and where the model looks for each of its words."""

    target_field = "text"
    description = "captions"
    has_classes = False
    data = CaptionsData
    resize_modes = ("squash",)
    tta_scales = ()

    # -- data

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: CaptionsData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """The images, with the ids of the tokens of their captions; in training one sample per caption."""
        assert isinstance(task, Captioner)
        listed = catalogue.split(split)
        places = [(s, i) for s in listed for i in range(len(_texts(s.target)) if training else 1)]
        captions = _Captions(places, task.vocabulary, alone=training)
        return [
            ReadSample.of(captions, number)
            if isinstance(sample, ReadSample)
            else replace(sample, target=captions.target_of(sample.target, i))
            for number, (sample, i) in enumerate(places)
        ]

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """The vocabulary."""
        data = data or CaptionsData()
        captions = [text for sample in catalogue.split("train") for text in _texts(sample.target)]
        return {"vocabulary": Vocabulary.learn(captions, data.vocabulary, data.vocabulary_size).content}

    # -- predictions

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """Whether the captions are the same."""
        return int(prediction.text == other.text), 1

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        return [(prediction.text or "", 0.0)]

    def draw(
        self,
        image: Tensor,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        keypoints: KeypointSchema | None = None,
        threshold: float = 0.0,
        top: int = 3,
    ) -> Image.Image:
        """The image over its caption, and beside it an image for each word, dark where the model does not look."""
        return looks.sheet(image, prediction)

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image over its caption."""
        return draw.captioned(image, [(target.text or "", 0.0)])

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`caption`, and for each word of it in `words`, `x` and `y`, the centre of the cell that the model looks at
        most as shares of the width and height, and its `weight`."""
        record: dict[str, Any] = {"caption": prediction.text}
        if prediction.looks is not None:
            height, width = prediction.looks.shape[1:]
            weights, places = prediction.looks.flatten(1).max(1)
            record["words"] = [
                {
                    "word": word,
                    "x": round((place % width + 0.5) / width, 4),
                    "y": round((place // width + 0.5) / height, 4),
                    "weight": round(weight, 6),
                }
                for word, place, weight in zip(prediction.words, places.tolist(), weights.tolist(), strict=True)
            ]
        return record

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        if evaluation.rows and "prediction" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        return f"<b>{escape(escaped(row['prediction']))}</b><br>is {escape(escaped(row['target']))}"

    # -- `vertebra data`

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        texts = _texts(target), _texts(other)
        return "" if texts[0] == texts[1] else f"other captions, {shown(target.text)} and {shown(other.text)}"


def _texts(target: Target) -> list[str]:
    """All captions of an image."""
    assert target.text is not None
    return [target.text, *target.references]


KIND = Captions()
