"""What detectors without proposals share: a pyramid of five levels, and detections from the predictions of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vertebra.backbones import Backbone
from vertebra.errors import check_choices, in_range
from vertebra.heads.anchors import flatten_anchors
from vertebra.heads.dense import DenseLevel, detect_dense
from vertebra.necks import ExtraLevels
from vertebra.options import adjustable
from vertebra.structures import Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks.detector import Detector, PyramidConfig, input_size, to_prediction


@dataclass(frozen=True)
class ExtraLevelOptions:
    """The two coarsest levels."""

    source: Literal["backbone", "pyramid"] = "backbone"
    """Map that they are convolved from: the backbone's last or, as in torchvision's first checkpoints and over
    single-scale backbones, the pyramid's."""
    relu: bool = True
    """Apply a ReLU between them; MMDetection has none."""
    norm: bool = False
    """Put the norm of the pyramid, if any, after their convolutions too, as MMDetection does."""

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class DenseConfig(PyramidConfig):
    """Options of every detector without proposals."""

    pre_nms_top_n: int = adjustable(1000)
    """Top-scoring predictions kept per level before NMS."""
    extra_levels: ExtraLevelOptions = ExtraLevelOptions()
    """The two coarsest levels."""
    clip_after_nms: bool = False
    """Clip boxes to the image only after non-maximum suppression, as Detectron2 does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("pre_nms_top_n", self.pre_nms_top_n, 1, 1_000_000)


class DenseDetector(Detector):
    """A detector over a pyramid of strides 8 to 128: [B, C, H, W] -> boxes of each image.

    A method writes `make_head`, `forward` and `dense_levels`; its head returns of each level the class logits first.
    """

    has_class_logits = True
    independent_classes = True

    def __init__(
        self, config: DenseConfig, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.neck = self.make_neck(self.backbone.levels, (8, 16, 32))
        self.first = [level.stride >= 8 for level in self.neck.levels].index(True)  # some pyramids have a finer level
        levels = self.neck.levels[self.first : self.first + 3]
        # The map of a single-scale backbone is finer than the pyramid's coarsest.
        same = self.backbone.levels[-1].stride == levels[-1].stride
        self.from_backbone = config.extra_levels.source == "backbone" and same
        channels = (self.backbone.levels if self.from_backbone else levels)[-1].channels
        norm = config.extra_levels.norm and config.neck.norm != "none"
        self.extra = ExtraLevels(levels, 2, source_channels=channels, relu=config.extra_levels.relu, norm=norm)
        self.dense: Any = self.make_head(self.extra.levels, len(classes))
        self.replace_norms()

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        """The head over the maps that `features` returns."""
        raise NotImplementedError

    def features(self, images: Tensor) -> list[Tensor]:
        """The five maps of the pyramid."""
        maps = self.backbone(images)
        pyramid = self.neck(maps)[self.first : self.first + 3]
        return self.extra(pyramid, maps[-1] if self.from_backbone else pyramid[-1])

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the head's loss."""
        terms: dict[str, Tensor] = self.dense.loss(self.dense(self.features(images)), targets, input_size(images))
        return terms

    def class_logits(self, images: Tensor) -> Tensor:
        """[B, num_classes, N] of the anchors, or points, of all levels."""
        return self._class_logits(self.dense(self.features(images)))

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, None]:
        raw = self.dense(self.features(images))
        return self.dense.loss(raw, targets, input_size(images)), self._class_logits(raw)[:, None], None

    def _class_logits(self, raw: Sequence[tuple[Tensor, ...]]) -> Tensor:
        return torch.cat([flatten_anchors(logits, len(self.classes)) for logits, *_ in raw], 1).transpose(1, 2)

    def dense_levels(self, raw: tuple[Tensor, ...], index: int) -> list[DenseLevel]:
        """The predictions for one image of the batch, from what `forward` returns."""
        raise NotImplementedError

    def candidates(self, raw: tuple[Tensor, ...], index: int, label: int) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for level in self.dense_levels(raw, index):
            score = flatten_anchors(level.logits[None], level.logits.shape[0] // level.anchors)[0, :, label].sigmoid()
            if level.quality is not None:
                score = score * flatten_anchors(level.quality[None], 1)[0, :, 0].sigmoid()
            scores.append(score)
            boxes.append(level.boxes(torch.arange(len(score), device=score.device)))
        return torch.cat(boxes), torch.cat(scores)

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        predictions = []
        for i, frame in enumerate(frames):
            detections = detect_dense(
                self.dense_levels(raw, i),
                frame.resized,
                self.config,
                pre_nms_top_n=self.config.pre_nms_top_n,
                clip_after_nms=self.config.clip_after_nms,
            )
            predictions.append(to_prediction(detections.boxes, detections.scores, detections.labels, frame)[0])
        return predictions
