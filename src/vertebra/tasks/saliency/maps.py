"""What all methods of saliency share: deep supervision, loss, saliency maps and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError
from vertebra.heads.decode import resize
from vertebra.heads.segmentation_loss import SaliencyLoss
from vertebra.ops.resample import bands
from vertebra.options import training_only
from vertebra.structures import Level, Prediction, Preprocess
from vertebra.tasks.base import Size
from vertebra.tasks.segmenter import AuxOptions, Segmenter

if TYPE_CHECKING:
    from vertebra.metrics.saliency import SaliencyMetrics


@dataclass(frozen=True)
class WithSaliencyOptions:
    """Options of the loss."""

    aux: AuxOptions = AuxOptions(weight=0.4, channels=64)
    """The auxiliary heads, one on each map (deep supervision)."""
    loss: SaliencyLoss = training_only(SaliencyLoss())
    """The training loss."""


class WithSaliency(Segmenter):
    """A probability for every pixel to belong to the salient object: logits [B, 1, h, w]."""

    kind = "saliency"
    monitor = "max_f"
    fixed_classes = ("background", "salient object")

    def __init__(self, config: Any, classes: Any, preprocess: Preprocess, backbone: Any = None) -> None:
        if len(classes) != 2:
            raise VertebraError(f"saliency has two classes, background and salient object; {len(classes)} are given.")
        super().__init__(config, classes, preprocess, backbone)

    @property
    def num_outputs(self) -> int:
        return 1

    def of_classes(self, logits: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(logits), logits), 1)  # the softmax of (0, x) is (1 - sigmoid(x), sigmoid(x))

    def make_aux(self, levels: Sequence[Level]) -> None:
        self.sides = nn.ModuleList(self.aux_head(level) for level in levels)

    def side_logits(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        output = self.decoder(maps)
        logits, regions = output if isinstance(output, tuple) else (output, None)
        side = [head([x]) for head, x in zip(getattr(self, "sides", ()), maps, strict=False)]
        return logits, side if regions is None else [*side, regions]

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """On logits that are resized to the labels, of which 1 is salient."""
        resized = resize(logits, labels.shape[1:], self.config.align_corners)[:, 0]
        terms: dict[str, Tensor] = self.config.loss(resized, labels)
        return terms

    def prediction(self, logits: Tensor, size: Size, **where: Any) -> Prediction:
        rows = [values[..., 0].sigmoid() for _, values in bands(logits, size, **where)]
        return Prediction(saliency=torch.cat(rows).cpu(), size=size)

    def logits_of_class(self, logits: Tensor, label: int) -> Tensor:
        return logits[:, 0] if label else -logits[:, 0]

    def metrics(self, **options: Any) -> SaliencyMetrics:
        from vertebra.metrics.saliency import SaliencyMetrics

        return SaliencyMetrics(**options)
