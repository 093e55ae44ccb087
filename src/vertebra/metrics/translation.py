"""Metrics of translations: a thin face over torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.text import CHRFScore, SacreBLEUScore

from vertebra.structures import Prediction, Target
from vertebra.text import UNKNOWN


class TranslationMetrics(MetricCollection):
    """chrF, BLEU, exact match, and how well attention agrees with a known alignment."""

    names: Mapping[str, str] = {
        "exact": "exact match",
        "bleu": "BLEU",
        "chrf": "chrF",
        "alignment": "alignment accuracy",
    }

    def __init__(self) -> None:
        super().__init__(
            {
                "exact": MeanMetric(),
                "bleu": SacreBLEUScore(),
                "chrf": CHRFScore(n_word_order=0),
                "alignment": MeanMetric(nan_strategy="ignore"),
            },
            compute_groups=False,
        )

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:  # type: ignore[override]
        texts = [prediction.text or "" for prediction in predictions]
        references = [_references(target) for target in targets]
        pairs = list(zip(predictions, targets, strict=True))
        self["exact"].update(torch.tensor([float(_exact(*pair)) for pair in pairs]))
        self["bleu"].update(texts, references)
        self["chrf"].update(texts, references)
        self["alignment"].update(torch.cat([alignment_hits(*pair) for pair in pairs]))

    def compute(self) -> dict[str, Any]:
        """Shares and scores in 0..1; `alignment` only where alignments are known."""
        values = {name: float(value) for name, value in super().compute().items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """The translation and its reference; the error is 1 - chrF, in 0..1."""
        score = CHRFScore(n_word_order=0)
        score.update([prediction.text or ""], [_references(target)])
        exact = _exact(prediction, target)
        return {
            "target": target.text,
            "prediction": prediction.text,
            "exact": exact,
            "error": 0.0 if exact else max(1e-6, 1 - float(torch.as_tensor(score.compute()))),
        }


def _references(target: Target) -> list[str]:
    return [target.text or "", *target.references]


def _exact(prediction: Prediction, target: Target) -> bool:
    """Whether all tokens are equal; texts, where one has none or unknown ones, and those of further references."""
    if prediction.text in target.references:
        return True
    if prediction.tokens is None or target.tokens is None or UNKNOWN in target.tokens:
        return prediction.text == target.text
    return torch.equal(prediction.tokens, target.tokens)


def alignment_hits(prediction: Prediction, target: Target) -> torch.Tensor:
    """For each correctly predicted token whose source is known, 1 if the model looks there most, else 0: [N] float32.

    Alignments are known by characters, so nothing is compared where the tokens are others.
    """
    known, alignment = target.alignment, prediction.alignment
    if known is None or alignment is None or target.tokens is None or prediction.tokens is None:
        return torch.zeros(0)
    count = min(len(known), len(prediction.tokens))
    if len(known) + 1 != len(target.tokens) or known.shape[1] + 1 != len(alignment.source):
        return torch.zeros(0)
    known = torch.nn.functional.pad(known, (0, 1))[:count]  # nothing stands for the end of the source
    correct = (prediction.tokens[:count] == target.tokens[:count]) & known.any(1)
    place = alignment.matrix[:count].argmax(1)
    return known.gather(1, place[:, None])[correct, 0].float()
