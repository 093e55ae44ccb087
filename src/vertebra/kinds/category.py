"""Classes of whole images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vertebra.data.augment import BatchTransform, Transform
from vertebra.data.augment.category import CategoryAugment, CategoryTransform, batch_transform, eased
from vertebra.data.catalogue import Sample
from vertebra.files import cell
from vertebra.kinds.base import shorten
from vertebra.kinds.one_class import OneClass
from vertebra.kinds.pseudo_labels import SoftLabelsWriter
from vertebra.kinds.writers import Writer, WriterOptions
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Answer, KeypointSchema, Prediction, Preprocess, Target
from vertebra.viz.draw import captioned, thumbnail


class Category(OneClass):
    """One class per image, with the probability of every class."""

    description = "classes of whole images"
    contents = "tags"
    priority = 1
    augment = CategoryAugment
    no_augment = CategoryAugment(crop=1.0, flip=0.0, colour=0.0)
    resize_modes = ("crop", "squash")
    progressive = True
    options = frozenset({"top", "embeddings"})
    soft_labels = True
    unlabelled = True

    # -- data

    def transform(
        self, augment: CategoryAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None
    ) -> Transform:
        return CategoryTransform(augment, preprocess)

    def eased(self, augment: CategoryAugment, share: float) -> CategoryAugment:
        return eased(augment, share)

    def batch_transform(self, augment: CategoryAugment, num_classes: int) -> BatchTransform | None:
        return batch_transform(augment, num_classes)

    # -- predictions

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image over the name of its class."""
        assert target.label is not None
        return captioned(image, [(shorten(classes[int(target.label)]), math.nan)])

    def to_supervision(self, prediction: Prediction, classes: Sequence[str], supervision: Any) -> Any:
        """Classifications."""
        labels, values = zip(*prediction.top(len(classes)), strict=True)
        return supervision.Classifications(class_id=np.array(labels), confidence=np.array(values))

    def writer(self, folder: Path, options: WriterOptions, *, format: str = "", top: int = 3) -> Writer:
        """As of `Kind`; the formats hold the top class."""
        options = replace(options, tags=lambda prediction: [prediction.top(1)[0][0]])
        return super().writer(folder, options, format=format, top=top)

    def labels_writer(self, folder: Path, options: WriterOptions) -> Writer:
        """A list of the images and their probabilities, see `data.soft_labels`."""

        def columns(prediction: Prediction) -> dict[str, object]:
            ((label, probability),) = prediction.top(1)
            return {"label": cell(options.classes[label]), "probability": round(probability, 6)}

        return SoftLabelsWriter(folder, options, lambda prediction: prediction.probabilities, columns)

    def answers(
        self, prediction: Prediction, classes: Sequence[str], *, labels: Sequence[int] = (), top: int = 1, **_: Any
    ) -> list[Answer]:
        """The classes asked for, or else the top ones."""
        ranked = [item for item in prediction.top(len(classes)) if not labels or item[0] in labels]
        return [Answer(f"{classes[label]} {value:.1%}", label) for label, value in ranked[: len(labels) or top]]

    # -- evaluation

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        from vertebra.viz import plots

        named = self.named_row(row, evaluation.classes)
        return plots.image(thumbnail(plots.pixels(sample)), f"{named['prediction']}, is {named['target']}")


KIND = Category()
