"""Metrics of several classes per image: average precision by torchmetrics, and F1 at the threshold of each class.

Symbols: M images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities import dim_zero_cat

from vertebra.metrics.coco.thresholds import DEFAULT_THRESHOLD, MIN_F1, Sweep
from vertebra.ops.multilabel import multi_hot
from vertebra.structures import Prediction, Target


class MultilabelMetrics(Metric):
    """Average precision and F1 over a data set, and over processes.

    Args:
        num_classes: C.
        thresholds: of each class, at which F1 is measured; if None, for each class the one with its best F1 on these
            very images, or 0.5 where the class does not occur or no threshold has an F1 of MIN_F1.
    """

    names: Mapping[str, str] = {
        "map": "mean AP",
        "micro_ap": "micro AP",
        "f1": "mean F1",
        "micro_f1": "micro F1",
        "exact": "all tags right",
    }
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int, thresholds: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.thresholds = thresholds
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        probabilities = torch.stack([p.tags for p in predictions if p.tags is not None])
        expected = multi_hot([t.tags for t in targets if t.tags is not None], self.num_classes)
        self.probabilities.append(probabilities.to(self.device))
        self.targets.append(expected.to(self.device).bool())

    def compute(self) -> dict[str, Any]:
        """All in 0..1. `map` and `f1` are means over the classes that occur; `micro_ap` and `micro_f1` are of all pairs
        of an image and a class; `exact` is the share of the images with the very classes that they have. Without a
        class in any image, average precision is left out. `thresholds` [C], and `per_class` lists, None where
        undefined."""
        if len(self.targets) == 0:  # a list, or a tensor once processes have been joined
            return {}
        probabilities = dim_zero_cat(self.probabilities).cpu().float()  # [M, C]
        expected = dim_zero_cat(self.targets).cpu()
        support = expected.sum(0)
        occurring = support > 0
        thresholds = self.thresholds or [
            _best_threshold(probabilities[:, i].numpy(), expected[:, i].numpy()) for i in range(self.num_classes)
        ]
        predicted = probabilities >= torch.tensor(thresholds)
        hits, chosen = (predicted & expected).sum(0), predicted.sum(0)
        f1 = 2 * hits / (chosen + support).clamp(min=1)
        values: dict[str, Any] = {}
        ap = torch.full((self.num_classes,), torch.nan)
        if occurring.any():
            ap[occurring] = _average_precision(probabilities[:, occurring], expected[:, occurring], "none")
            values["map"] = float(ap[occurring].mean())
            values["micro_ap"] = float(_average_precision(probabilities, expected, "micro"))
        return {
            **values,
            "f1": float(f1[occurring].mean()) if occurring.any() else 0.0,
            "micro_f1": float(2 * hits.sum() / (chosen + support).sum().clamp(min=1)),
            "exact": float((predicted == expected).all(1).float().mean()),
            "thresholds": list(map(float, thresholds)),
            "per_class": {
                "ap": _listed(ap),
                "precision": _listed(hits / chosen),
                "recall": _listed(hits / support),
                "f1": _listed(torch.where(occurring, f1, torch.nan)),
                "threshold": list(map(float, thresholds)),
                "support": support.tolist(),
            },
        }

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Class indices `target` and `prediction`, those that reach their thresholds; as `error`, 1 - F1 of the image,
        which is 0 where it has no class and none is predicted."""
        assert prediction.tags is not None
        assert target.tags is not None
        limits = DEFAULT_THRESHOLD if self.thresholds is None else torch.tensor(self.thresholds)
        predicted = torch.nonzero(prediction.tags >= limits).flatten().tolist()
        expected = sorted(target.tags.tolist())
        total = len(predicted) + len(expected)
        f1 = 2 * len(set(predicted) & set(expected)) / total if total else 1.0
        return {"target": expected, "prediction": predicted, "error": 1 - f1}


def _average_precision(probabilities: Tensor, expected: Tensor, average: str) -> Tensor:
    """Of each class [C] with `none`, of all together [] with `micro`."""
    if probabilities.shape[1] == 1:  # torchmetrics has no set of one label
        from torchmetrics.functional.classification import binary_average_precision

        return binary_average_precision(probabilities[:, 0], expected[:, 0].long()).reshape(1)
    count = probabilities.shape[1]
    return multilabel_average_precision(probabilities, expected.long(), count, average=average)  # type: ignore[arg-type]


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the best F1 of one class, from its probabilities [M] and where it occurs [M] bool."""
    order = np.argsort(-scores, kind="stable")
    sweep = Sweep(scores[order].astype(np.float64), positive[order], int(positive.sum()))
    best = sweep.best()
    return best if best is not None and sweep.at(best)[2] >= MIN_F1 else DEFAULT_THRESHOLD


def _listed(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]
