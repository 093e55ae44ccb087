"""Label maps: a class for every pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError
from vertebra.kinds.maps import ClassMaps, target_map
from vertebra.kinds.pseudo_labels import LabelMapsWriter
from vertebra.kinds.writers import Writer, WriterOptions
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import IGNORED, KeypointSchema, Prediction, Target
from vertebra.viz import draw, maps
from vertebra.viz.draw import Colour


class LabelMaps(ClassMaps):
    """A class per pixel."""

    description = "label maps"
    priority = 5
    row_key = "pixel_accuracy"
    balancing = frozenset({"class_weights"})

    # -- data

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """With `balance`, weights of the classes by their share of the training pixels: 1 / ln(1.02 + share), as in
        ENet, arXiv:1606.02147, section 5.2, divided by their mean."""
        if not balance:
            return {}
        counts = torch.zeros(256, dtype=torch.int64)
        for sample in catalogue.split("train"):
            with contextlib.suppress(VertebraError):  # reported when it is read
                size = sample.size
                if size is not None:
                    counts += torch.bincount(target_map(sample, size).flatten().int(), minlength=256)
        shares = counts[: len(catalogue.classes)] / counts[:IGNORED].sum().clamp(min=1)
        weights = 1 / (1.02 + shares.double()).log()
        return {"class_weights": tuple(round(value, 6) for value in (weights / weights.mean()).tolist())}

    # -- predictions

    def shares(self, prediction: Prediction, num_classes: int) -> list[float]:
        """The share of each class in the pixels, in 0..1."""
        assert prediction.semantic is not None
        counts = torch.bincount(prediction.semantic.flatten().int(), minlength=num_classes)[:num_classes]
        return (counts / prediction.semantic.numel()).tolist()

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        shares = self.shares(prediction, len(classes))
        ranked = sorted(range(len(classes)), key=lambda i: -shares[i])[:top]
        return [(f"{classes[i]} {shares[i]:.1%}", shares[i]) for i in ranked if shares[i]]

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        means = torch.tensor([self.shares(prediction, len(classes)) for prediction in predictions]).mean(0).tolist()
        ranked = sorted(range(len(classes)), key=lambda i: -means[i])[:top]
        return "  ".join(f"{classes[i]} {means[i]:.1%}" for i in ranked if means[i])

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
        """The image in the colours of the classes, over a legend of those that occur."""
        assert prediction.semantic is not None
        shares = self.shares(prediction, len(classes))
        colours = maps.palette(len(classes))
        ranked = sorted((i for i, share in enumerate(shares) if share), key=lambda i: -shares[i])
        legend = [(f"{classes[i]} {shares[i]:.0%}", tuple(colours[i].tolist())) for i in ranked]
        return maps.with_legend(maps.overlay(image, prediction.semantic, len(classes)), legend[: maps.LEGEND])

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image in the colours of the classes; ignored pixels keep their own."""
        assert target.semantic is not None
        return maps.overlay(image, target.semantic, len(classes))

    def legend(self, targets: Sequence[Target], classes: Sequence[str]) -> list[tuple[str, Colour]]:
        labels = {label for t in targets if t.semantic is not None for label in t.semantic.unique().tolist()}
        return [(classes[i], draw.colour(i)) for i in sorted(labels - {IGNORED})]

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """The share of every class in the pixels."""
        shares = self.shares(prediction, len(classes))
        return {"shares": {name: round(share, 6) for name, share in zip(classes, shares, strict=True)}}

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        shares: dict[str, Any] = record["shares"]
        return shares

    def rows(self, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
        """A row per class."""
        shares = self.shares(prediction, len(classes))
        return [{"class": name, "share": share} for name, share in zip(classes, shares, strict=True)]

    def labels_writer(self, folder: Path, options: WriterOptions) -> Writer:
        """A list of the images and their label maps."""
        return LabelMapsWriter(folder, options, lambda prediction: self.to_image(prediction, len(options.classes)))

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        from vertebra.viz import plots

        metrics = evaluation.metrics
        if "per_class" in metrics:
            yield "Classes", plots.per_class(metrics["per_class"], evaluation.classes)
        if "confusion" in metrics:
            matrix = plots.confusion(metrics["confusion"], evaluation.classes)
            yield "Confusion matrix, in pixels", plots.plot(matrix, "confusion matrix")
        yield from super().sections(evaluation, samples)

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        """Ground truth, prediction, and where they differ."""
        from vertebra.viz import plots

        image = plots.pixels(sample)
        labels = target_map(sample, (image.shape[1], image.shape[2]))
        predicted = evaluation.predictions[row["index"]].semantic
        assert predicted is not None
        count = len(evaluation.classes)
        drawings = {
            "ground truth": maps.overlay(image, labels, count),
            "prediction": maps.overlay(image, predicted, count),
            "errors": maps.errors(predicted, labels),
        }
        name = Path(row["path"]).name
        return "".join(
            plots.image(plots.fitted(drawn, 300), f"{what}: {name}", format="jpeg") for what, drawn in drawings.items()
        )

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        return f"<b>{row['pixel_accuracy']:.1%}</b> of the pixels right, mean IoU {row['miou']:.3f}"


KIND = LabelMaps()
