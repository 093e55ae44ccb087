"""Metrics of refined patches, beside those of the coarse masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vertebra.metrics.semantic import boundary_counts
from vertebra.structures import Prediction, Target


class PatchMetrics(Metric):
    """IoU and boundary IoU of the foreground over all pixels of all patches, and over processes.

    The prediction and the ground truth are label maps; the coarse mask is the only one in `Target.masks`.
    """

    names: Mapping[str, str] = {
        "iou": "IoU",
        "boundary_iou": "boundary IoU",
        "coarse_iou": "IoU of the coarse masks",
        "coarse_boundary_iou": "boundary IoU of the coarse masks",
    }
    counts: Tensor

    def __init__(self, padding: int = 0) -> None:
        """`padding` is the width in pixels of the context around each patch, which is not measured."""
        super().__init__()
        self.padding = padding
        self.add_state("counts", torch.zeros(4, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):
            self.counts += self._counts(prediction, target).to(self.device)

    def compute(self) -> dict[str, Any]:
        """All in 0..1; 0 if no patch has foreground."""
        return _shares(self.counts)

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """The metrics of one patch; as `error`, 1 - IoU."""
        values = _shares(self._counts(prediction, target))
        return {**values, "error": 1 - values["iou"]}

    def _counts(self, prediction: Prediction, target: Target) -> Tensor:
        """Pixels of the intersection and of the union, of each metric: [4, 2] int64."""
        assert prediction.semantic is not None
        assert target.semantic is not None
        assert target.masks is not None
        height, width = target.semantic.shape
        inner = (slice(self.padding, height - self.padding), slice(self.padding, width - self.padding))
        labels = target.semantic.cpu()[inner]
        rows = []
        for mask in (prediction.semantic.cpu(), target.masks[0].to(torch.uint8)):
            predicted, true = mask[inner] == 1, labels == 1
            rows.append(torch.stack(((predicted & true).sum(), (predicted | true).sum())))
            both = boundary_counts(predicted.to(torch.uint8).numpy(), true.to(torch.uint8).numpy(), 2, outside=False)
            rows.append(both[:, 1])
        return torch.stack(rows)


def _shares(counts: Tensor) -> dict[str, float]:
    values = counts[:, 0].double() / counts[:, 1].clamp(min=1)
    return dict(zip(PatchMetrics.names, values.tolist(), strict=True))
