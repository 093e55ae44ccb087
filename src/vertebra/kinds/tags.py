"""Tags: any number of classes for the whole image."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rich.table import Table
from torch import Tensor

from vertebra.data import reading
from vertebra.data.augment import BatchTransform, Transform
from vertebra.data.augment.category import CategoryAugment, CategoryTransform
from vertebra.data.augment.tags import tags_batch_transform
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import Source
from vertebra.errors import VertebraError, in_range, shown
from vertebra.files import cell
from vertebra.kinds import views
from vertebra.kinds.base import Kind, class_counts, inverse_frequencies, shorten, uneven
from vertebra.kinds.pseudo_labels import SoftLabelsWriter
from vertebra.kinds.writers import Writer, WriterOptions
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Answer, KeypointSchema, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import draw
from vertebra.viz.draw import captioned, thumbnail

NAMED = 10
"""Tags that a note names; of more it gives the number."""


@dataclass
class TagsData:
    """How often training images of rare tags are shown."""

    resample: Literal["none", "sqrt"] = "none"
    """`sqrt` repeats training images of rare tags by the inverse square root of the frequency of their rarest tag."""
    resample_below: float | None = None
    """Share of the training images, in 0..1, below which a tag is rare; the mean over the tags if not given."""

    def __post_init__(self) -> None:
        in_range("data.resample_below", self.resample_below, 0, 1)
        if self.resample_below is not None and self.resample == "none":
            raise VertebraError("data.resample_below needs data.resample=sqrt.")


class Tags(Kind):
    """Any number of classes per image, each with its probability and its threshold."""

    target_field = "tags"
    soft_labels = True
    description = "tags"
    contents = "tags"
    unlabelled = True
    augment = CategoryAugment
    no_augment = CategoryAugment(crop=1.0, flip=0.0, colour=0.0)
    resize_modes = ("squash", "crop")
    balancing = frozenset({"class_weights"})
    options = frozenset({"threshold", "embeddings"})
    data = TagsData

    # -- data

    def read(self, path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
        """Tags; or else, from files, the classes of the objects in an image, or the one class that it has."""
        catalogue = reading.read(path, fields=self.fields, seed=seed, missing_ok=missing_ok)
        labelled = catalogue.items == self.items and catalogue.has & {"boxes", "label"}
        if "tags" not in catalogue.has and labelled and catalogue.format != "dataset":
            catalogue = reading.tagged(catalogue)
        self.check_fields(catalogue)
        return catalogue

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: TagsData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """The images; in training with `resample`, those of rare tags several times.

        Raises:
            VertebraError: if there are none, or no training image has a tag.
        """
        samples, data = catalogue.split(split), data or TagsData()
        # To count the tags of a Dataset, all its items would be read.
        if not training or (catalogue.format == "dataset" and data.resample == "none"):
            return samples
        counts = catalogue.counts(split, self.labels)
        if not any(counts):
            raise VertebraError(f"no image of the {split} split of {catalogue.path} has a tag.")
        if absent := [name for name, count in zip(catalogue.classes, counts, strict=True) if not count]:
            catalogue.notes.append(f"no {split} image has {_named(absent)}, which cannot be learned")
        if data.resample == "none":
            return samples
        repeated = resampled(samples, counts, data.resample_below, seed)
        most = max(Counter(map(id, repeated)).values())
        catalogue.notes.append(
            f"{split}: {len(samples)} images become {len(repeated)} by resampling, one at most {most} times"
        )
        return repeated

    def transform(
        self, augment: CategoryAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None
    ) -> Transform:
        return CategoryTransform(augment, preprocess)

    def batch_transform(self, augment: CategoryAugment, num_classes: int) -> BatchTransform | None:
        return tags_batch_transform(augment, num_classes)

    def labels(self, target: Target) -> Tensor:
        return super().labels(target) if target.tags is None else target.tags

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """With `balance`, a weight per class that is inversely proportional to its training images."""
        if not balance:
            return {}
        return {"class_weights": inverse_frequencies(catalogue, catalogue.counts("train", self.labels))}

    def metric_options(self, about: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
        """The thresholds of the classes in the checkpoint."""
        thresholds = about.get("metrics", {}).get("thresholds")
        return {} if thresholds is None else {"thresholds": thresholds}

    # -- predictions

    def filter(self, prediction: Prediction, threshold: float | Sequence[float]) -> tuple[Prediction, int]:
        """The tags that reach the threshold, also those that the prediction did not have; none is counted as dropped,
        because all others are."""
        assert prediction.tags is not None
        return prediction.with_tags(prediction.tags, threshold), 0

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """Of the tags of both, those that the other prediction has too."""
        assert prediction.labels is not None
        assert other.labels is not None
        mine, theirs = set(prediction.labels.tolist()), set(other.labels.tolist())
        return 2 * len(mine & theirs), len(mine) + len(theirs)

    def merge_views(self, predictions: Sequence[Prediction]) -> Prediction:
        """The tags of the mean probabilities."""
        merged = views.mean(predictions)
        assert merged.tags is not None
        assert merged.thresholds is not None
        return merged.with_tags(merged.tags, merged.thresholds)

    def answers(
        self, prediction: Prediction, classes: Sequence[str], *, labels: Sequence[int] = (), top: int = 1, **_: Any
    ) -> list[Answer]:
        """The tags asked for, or else the most probable ones."""
        assert prediction.tags is not None
        ranked = prediction.tags.argsort(descending=True).tolist()
        chosen = [label for label in ranked if label in labels] if labels else ranked[:top]
        return [Answer(f"{classes[label]} {float(prediction.tags[label]):.1%}", label) for label in chosen]

    def writer(self, folder: Path, options: WriterOptions, *, format: str = "", top: int = 3) -> Writer:
        """As of `Kind`; the formats hold the tags that reach the threshold."""

        def tags(prediction: Prediction) -> Sequence[int]:
            assert prediction.labels is not None
            labels: list[int] = prediction.labels.tolist()
            return labels

        return super().writer(folder, replace(options, tags=tags), format=format, top=top)

    def labels_writer(self, folder: Path, options: WriterOptions) -> Writer:
        """A list of the images with the tags that reach their thresholds, and all probabilities, see
        `data.soft_labels`.

        Raises:
            VertebraError: if a tag has the character that separates tags.
        """
        if odd := [name for name in options.classes if ";" in name]:
            raise VertebraError(f"tag {shown(odd[0])} has a semicolon, which separates the tags in a list.")

        def columns(prediction: Prediction) -> dict[str, object]:
            names = [name for name, _ in _tags(prediction, options.classes)]
            return {"tags": cell("".join(f"{name};" for name in names))}

        return SoftLabelsWriter(folder, options, lambda prediction: prediction.tags, columns)

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        """All tags, with a bar as long as their probability."""
        return [
            (f"{shorten(name)}  {probability:.1%}", probability) for name, probability in _tags(prediction, classes)
        ]

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        """The tags and probabilities of an image, or the number of video frames of each tag."""
        if len(predictions) == 1:
            return "  ".join(f"{name} {value:.3f}" for name, value in _tags(predictions[0], classes)) or "nothing"
        counts = Counter(name for prediction in predictions for name, _ in _tags(prediction, classes))
        most_first = sorted(counts.items(), key=lambda item: (-item[1], classes.index(item[0])))
        return ", ".join(f"{count} {name}" for name, count in most_first) or "nothing"

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
        """The image over its tags; without tags of that probability, the image alone."""
        lines = [line for line in self.caption(prediction, classes) if line[1] >= threshold]
        return captioned(image, lines) if lines else draw.to_image(image)

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image over the names of its tags."""
        names = [classes[label] for label in self.labels(target).tolist()]
        return captioned(image, [(shorten(name), math.nan) for name in names or ["no tags"]])

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`tags`: each with `class` and `probability`."""
        return {"tags": [{"class": name, "probability": round(p, 6)} for name, p in _tags(prediction, classes)]}

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """`tags` and `probabilities`, each separated by `;`, so that the table is a list of tags itself."""
        tags = record["tags"]
        return {
            "tags": ";".join(tag["class"] for tag in tags),
            "probabilities": ";".join(f"{tag['probability']:g}" for tag in tags),
        }

    def rows(self, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
        """A row per class, by descending probability; `predicted` tells whether it reaches its threshold."""
        assert prediction.tags is not None
        assert prediction.thresholds is not None
        return [
            {
                "class": classes[label],
                "label": label,
                "probability": float(prediction.tags[label]),
                "threshold": float(prediction.thresholds[label]),
                "predicted": bool(prediction.tags[label] >= prediction.thresholds[label]),
            }
            for label in prediction.tags.argsort(descending=True, stable=True).tolist()
        ]

    def to_supervision(self, prediction: Prediction, classes: Sequence[str], supervision: Any) -> Any:
        """Classifications."""
        assert prediction.labels is not None
        assert prediction.scores is not None
        return supervision.Classifications(class_id=np.array(prediction.labels), confidence=np.array(prediction.scores))

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        from vertebra.viz import plots

        if "per_class" in evaluation.metrics:
            yield "Classes", plots.per_class(evaluation.metrics["per_class"], evaluation.classes)
        if evaluation.rows and "prediction" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def named_row(self, row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        return {**row, **{key: [classes[i] for i in row[key]] for key in ("target", "prediction") if key in row}}

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        from vertebra.viz import plots

        named = self.named_row(row, evaluation.classes)
        return plots.image(
            thumbnail(plots.pixels(sample)), f"{_listed(named['prediction'])}, is {_listed(named['target'])}"
        )

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Tags that are missing, and wrong ones."""
        named = self.named_row(row, classes)
        target, predicted = named["target"], named["prediction"]
        parts = {
            "missing": [name for name in target if name not in predicted],
            "wrong": [name for name in predicted if name not in target],
            "right": [name for name in predicted if name in target],
        }
        return "<br>".join(f"{word} <b>{escape(_listed(names))}</b>" for word, names in parts.items() if names)

    # -- `vertebra data`

    def inspect_sample(self, sample: Sample, size: tuple[int, int]) -> tuple[Target, list[str]]:
        return sample.target, []

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        first, second = (sorted(self.labels(t).tolist()) for t in (target, other))
        if first == second:
            return ""
        return f"tags {_quoted(classes[i] for i in first)} and {_quoted(classes[i] for i in second)}"

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """The images of each tag by split, the tags per image, and the images without a tag."""
        table, _ = class_counts(catalogue, self.labels, "tag", "tags")
        sizes = {split: [len(self.labels(s.target)) for s in samples] for split, samples in catalogue.splits.items()}
        table.add_row("images", *(str(len(of_split)) for of_split in sizes.values()))
        table.add_row("images without a tag", *(str(of_split.count(0)) for of_split in sizes.values()))
        table.add_row("tags per image", *(f"{sum(of) / max(1, len(of)):.2f}" for of in sizes.values()))
        table.add_row("most tags of an image", *(str(max(of_split, default=0)) for of_split in sizes.values()))
        return [table]

    def notes(self, catalogue: Catalogue) -> list[str]:
        """Uneven tags, those of one training image, those of none, and those that always occur together."""
        counts = catalogue.counts("train", self.labels)
        note = uneven(catalogue, counts, "images", ignore_absent=True)
        notes = [f"{note}: consider --data.resample=sqrt or --balance"] if note else []
        for number, words in ((0, "no training image"), (1, "one training image only")):
            names = [name for name, count in zip(catalogue.classes, counts, strict=True) if count == number]
            if names and any(counts):
                notes.append(f"in {words}: {_named(names)}")
        images: dict[int, list[int]] = defaultdict(list)
        for number, sample in enumerate(catalogue.splits.get("train", [])):
            for label in self.labels(sample.target).tolist():
                images[label].append(number)
        together: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for label in sorted(images):
            together[tuple(images[label])].append(label)
        for numbers, labels in together.items():
            if len(labels) > 1 and len(numbers) > 1:
                names = [catalogue.classes[i] for i in labels]
                notes.append(f"always together in train ({len(numbers)} images): {_named(names)}")
        return notes


def resampled(
    samples: Sequence[Sample], counts: Sequence[int], below: float | None = None, seed: int = 0
) -> list[Sample]:
    """The samples, each as often as its replication factor says: r(I) = max over its tags h of max(1, sqrt(t / f(h))).

    f(h) is the share of the images that have tag h. The fraction of a factor is the probability of one copy more.

    Args:
        samples: with tags, or without any, which are kept once.
        counts: of the samples that have each class.
        below: t in 0..1; the mean of f over the tags that occur, if None.
        seed: of the fractions.

    Source: Exploring the Limits of Weakly Supervised Pretraining, arXiv:1805.00932, section 2.2; a mean as t is ours.
    """
    shares = [count / len(samples) for count in counts]
    occurring = [share for share in shares if share]
    limit = sum(occurring) / len(occurring) if below is None else below
    factors = [max(1.0, math.sqrt(limit / share)) if share else 1.0 for share in shares]
    generator = random.Random(seed)
    result = []
    for sample in samples:
        assert sample.target.tags is not None
        factor = max((factors[label] for label in sample.target.tags.tolist()), default=1.0)
        result += [sample] * (int(factor) + (generator.random() < factor % 1))
    return result


def _tags(prediction: Prediction, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Name and probability of the tags that reach their thresholds, descending."""
    assert prediction.labels is not None
    assert prediction.scores is not None
    pairs = zip(prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
    return [(classes[label], score) for label, score in pairs]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _quoted(names: Any) -> str:
    return ", ".join(map(shown, names)) or "none"


def _named(names: Sequence[str]) -> str:
    """The names, or the first ones and the number of the others."""
    others = len(names) - NAMED
    return ", ".join(map(shown, names[:NAMED])) + (f" and {others} more" if others > 0 else "")


KIND = Tags()
