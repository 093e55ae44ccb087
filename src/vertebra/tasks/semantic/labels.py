"""What all methods of semantic segmentation share: loss, label maps and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vertebra.heads.decode import resize
from vertebra.heads.segmentation_loss import SegmentationLoss
from vertebra.ops.resample import label_map
from vertebra.options import training_only
from vertebra.structures import Prediction, Preprocess
from vertebra.tasks.base import Size
from vertebra.tasks.segmenter import Segmenter

if TYPE_CHECKING:
    from vertebra.metrics.semantic import SegmentationMetrics


@dataclass(frozen=True)
class WithLabelOptions:
    """Options of the loss."""

    loss: SegmentationLoss = training_only(SegmentationLoss())
    """The training loss."""
    class_weights: tuple[float, ...] | None = training_only(None)
    """Weight of each class in the cross-entropy, in the order of the classes."""


class WithLabels(Segmenter):
    """A class for every pixel."""

    kind = "semantic"
    monitor = "miou"
    label_options = ("loss", "class_weights")

    def __init__(self, config: Any, classes: Any, preprocess: Preprocess, backbone: Any = None) -> None:
        super().__init__(config, classes, preprocess, backbone)
        self.register_class_weights(config.class_weights)

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """On logits that are resized to the labels."""
        resized = resize(logits, labels.shape[1:], self.config.align_corners)
        terms: dict[str, Tensor] = self.config.loss(resized, labels, self.class_weights)
        return terms

    def prediction(self, logits: Tensor, size: Size, **where: Any) -> Prediction:
        return Prediction(semantic=label_map(logits, size, **where).cpu(), size=size)

    def metrics(self, **options: Any) -> SegmentationMetrics:
        from vertebra.metrics.semantic import SegmentationMetrics

        return SegmentationMetrics(len(self.classes), **options)
