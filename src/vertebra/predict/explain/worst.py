"""The images with the largest errors beside their explanations, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from vertebra.data.catalogue import Sample
from vertebra.errors import VertebraError
from vertebra.metrics.evaluation import Evaluation
from vertebra.predict.explain.explainer import Explainer
from vertebra.viz import explanations, plots

SHOWN = 8
"""Images, each of which takes a gradient."""


def html(explainer: Explainer, evaluation: Evaluation, samples: Sequence[Sample]) -> str:
    """For each of the most wrong predictions the image and Grad-CAM of the top-scoring answer, as figures.

    Args:
        samples: those that were evaluated.
    """
    figures = []
    for row in evaluation.worst(SHOWN):
        name = escape(Path(row["path"]).name if row["path"] else f"image {row['index'] + 1}")
        try:
            explained = explainer(plots.pixels(samples[row["index"]]))
        except VertebraError as error:  # an image that went missing, or a model without feature maps
            figures.append(f'<figure class="pair"><span class="bad">{escape(str(error))}</span><br>{name}</figure>')
            continue
        for explanation in explained:
            images = (explanations.marked(explanation.image, explanation.answer), explanation.plot())
            drawn = "".join(
                plots.image(plots.fitted(image), f"{what}: {name}", format="jpeg")
                for what, image in zip(("image", "Grad-CAM"), images, strict=True)
            )
            figures.append(f'<figure class="pair">{drawn}<br>{escape(explanation.answer.name)}<br>{name}</figure>')
        if not explained:
            figures.append(f'<figure class="pair">nothing is predicted<br>{name}</figure>')
    if not figures:
        return "<p>No image was predicted wrongly.</p>"
    return f'<div class="wrong">{"".join(figures)}</div>'
