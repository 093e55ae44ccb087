"""Saliency maps: for every pixel whether it belongs to the salient object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import Source
from vertebra.errors import VertebraError
from vertebra.kinds.maps import PixelMaps, target_map
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import KeypointSchema, Prediction, Target
from vertebra.viz import maps

CLASSES = ("background", "salient object")


class SaliencyMaps(PixelMaps):
    """A probability per pixel."""

    description = "saliency maps"
    priority = 4
    row_key = "s_measure"
    map_name = "saliency_map"

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def to_logits(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(1e-6, 1 - 1e-6).logit()

    def decided(self, probabilities: Tensor) -> Tensor:
        return probabilities[..., 0]

    def with_map(self, prediction: Prediction, values: Tensor) -> Prediction:
        return replace(prediction, saliency=values)

    def hard_labels(self, prediction: Prediction) -> Tensor:
        """1 where the saliency is 0.5 or more."""
        assert prediction.saliency is not None
        return (prediction.saliency >= 0.5).to(torch.uint8)

    def to_image(self, prediction: Prediction, num_classes: int) -> Image.Image:
        """The saliency map as a grey image."""
        assert prediction.saliency is not None
        return Image.fromarray((prediction.saliency * 255).round().clamp(0, 255).to(torch.uint8).numpy())

    def read(self, path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
        """Masks of background and foreground; where the background is the first of several classes, or objects have
        masks, all others are foreground."""
        catalogue = super().read(path, seed=seed, missing_ok=missing_ok)
        if len(catalogue.classes) != 2 and catalogue.classes[0].lower() != "background":
            raise VertebraError(
                f"{catalogue.path} has label maps of {len(catalogue.classes)} classes, the first "
                f"{catalogue.classes[0]!r}; "
                "saliency needs two, or the background as the first: train semantic on it."
            )
        samples = {
            split: [replace(sample, foreground=True) for sample in members]
            for split, members in catalogue.splits.items()
        }
        return replace(catalogue, classes=CLASSES, splits=samples)

    # -- predictions

    def share(self, prediction: Prediction) -> float:
        assert prediction.saliency is not None
        return float((prediction.saliency >= 0.5).float().mean())

    def caption(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> list[tuple[str, float]]:
        share = self.share(prediction)
        return [(f"{share:.1%} salient", share)]

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        shares = [self.share(prediction) for prediction in predictions]
        return f"{sum(shares) / max(1, len(shares)):.1%} salient"

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
        """The image, darkened where it is not salient."""
        assert prediction.saliency is not None
        return maps.heat(image, prediction.saliency)

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        """The image, darkened in the background."""
        assert target.semantic is not None
        return maps.heat(image, (target.semantic != 0).float())

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """The share of the salient pixels."""
        return {"salient": round(self.share(prediction), 6)}

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        from vertebra.viz import plots

        metrics = evaluation.metrics
        if "f_curve" in metrics:
            yield "F-measure and E-measure", plots.plot(_curves(metrics), "F-measure and E-measure by threshold")
        yield from super().sections(evaluation, samples)

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        """Image, mask and saliency map."""
        from vertebra.viz import draw, plots

        image = plots.pixels(sample)
        labels = target_map(sample, (image.shape[1], image.shape[2]))
        drawings = {
            "image": draw.to_image(image),
            "ground truth": Image.fromarray(((labels == 1) * 255).to(torch.uint8).numpy()),
            "prediction": self.to_image(evaluation.predictions[row["index"]], len(CLASSES)),
        }
        name = Path(row["path"]).name
        return "".join(
            plots.image(plots.fitted(drawn, 300), f"{what}: {name}", format="jpeg") for what, drawn in drawings.items()
        )

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        return f"MAE <b>{row['mae']:.3f}</b>, S-measure {row['s_measure']:.3f}, IoU {row['iou']:.3f}"


def _curves(metrics: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    thresholds = [1 - i / 255 for i in range(256)]
    axes.plot(thresholds, metrics["f_curve"], label="F-measure")
    axes.plot(thresholds, metrics["e_curve"], label="E-measure")
    axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="threshold")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


KIND = SaliencyMaps()
