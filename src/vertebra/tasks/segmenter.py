"""What methods that label every pixel share: backbone, levels, auxiliary heads, losses, and label maps from logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.backbones import Backbone
from vertebra.errors import check_choices, in_range
from vertebra.heads.decode import FCNHead, resize
from vertebra.necks import SimplePyramid
from vertebra.nn.norm import replace_norm
from vertebra.ops.resample import resampled
from vertebra.options import training_only
from vertebra.structures import Answer, Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks import inputs
from vertebra.tasks.base import Size
from vertebra.tasks.trunk import TrunkConfig, TrunkTask

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 3e-4,
    "epochs": 60,
    "warmup": 1.0,
    "clip": 1.0,
    "data.batch_size": 8,
}
"""Training settings of segmenters, where they differ from those of classification."""


@dataclass(frozen=True)
class AuxOptions:
    """The auxiliary FCN head on the last but one map, which is used in training alone."""

    weight: float = 0.4
    """Weight of its loss; 0 leaves the head out."""
    channels: int = 256
    """Channels of its convolution."""

    def __post_init__(self) -> None:
        in_range("aux.weight", self.weight, 0, 1_000_000)
        in_range("aux.channels", self.channels, 1, 65_536)


@dataclass(frozen=True)
class SegmenterConfig(TrunkConfig):
    """Options of every segmenter."""

    least_channels: ClassVar[int] = 1

    norm: Literal["auto", "batch", "frozen", "sync", "group"] = "batch"
    """Norm that replaces the backbone's batch norm: batch norm itself, frozen, synchronised over processes, or group
    norm. `auto` freezes it when training starts from a checkpoint."""
    channels: int = 256
    """Channels of the decode head."""
    dropout: float = training_only(0.1)
    """Dropout rate of channels before the classifier."""
    head_norm: Literal["batch", "sync", "group"] = "batch"
    """Norm after the convolutions of the heads."""
    align_corners: bool = False
    """Whether the corner cells, not their corners, coincide when maps are resized."""
    aux: AuxOptions = AuxOptions()
    """The auxiliary head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        in_range("channels", self.channels, self.least_channels, 65_536)
        in_range("dropout", self.dropout, 0, 0.99)


class Segmenter(TrunkTask):
    """A backbone and a decode head: [B, C, H, W] -> logits [B, num_classes, h, w].

    A form writes `make_head`, and sets `strides` or overrides `make_levels`; a task writes `pixel_loss`, `prediction`
    and `metrics`.
    """

    target_fields = ("semantic",)
    has_class_logits = True
    unused_parameters = True  # such as the norm of a map that the head does not use
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    """Of the maps that the head reads, finest first."""

    def __init__(
        self, config: Any, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        levels = self.make_levels(self.backbone.levels)
        self.decoder = self.make_head(levels, self.num_outputs)
        if config.aux.weight:
            self.make_aux(levels)
        for name, part in self.named_children():
            if name != "backbone":
                replace_norm(part, config.head_norm)

    @property
    def num_outputs(self) -> int:
        """Channels of the logits."""
        return len(self.classes)

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        """The decode head over the maps that `features` returns."""
        raise NotImplementedError

    def make_aux(self, levels: Sequence[Level]) -> None:
        """Builds the auxiliary head, `aux`; called if its loss has a weight."""
        self.aux_index = max(0, len(levels) - 2)
        self.aux = self.aux_head(levels[self.aux_index])

    def aux_head(self, level: Level) -> FCNHead:
        options = self.config.aux
        return FCNHead([level], options.channels, self.num_outputs, align_corners=self.config.align_corners)

    def make_levels(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        """The levels of `features`: the backbone's of `strides`; over a single-scale backbone, those of the simple
        feature pyramid that is made here."""
        available = [level.stride for level in levels]
        if set(self.strides) <= set(available):
            self.used = [available.index(stride) for stride in self.strides]
            return tuple(levels[i] for i in self.used)
        self.neck = SimplePyramid(levels, self.config.channels or 256, skip=4 - len(self.strides))
        return self.neck.levels

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that the heads read, finest first."""
        maps = self.backbone(images)
        return self.neck(maps) if hasattr(self, "neck") else [maps[i] for i in self.used]

    def logits(self, images: Tensor) -> Tensor:
        """[B, num_classes, h, w] of the finest map that the head reads."""
        logits: Tensor = self.decoder(self.features(images))
        return logits

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Logits [B, num_classes, H, W]."""
        (logits,) = self.outputs(images)
        return (resize(logits, images.shape[2:], self.config.align_corners),)

    def outputs(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Logits [B, num_classes, h, w] of the finest map that the head reads: they are resized once, to the image."""
        return (self.logits(images),)

    def side_logits(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits, and those of auxiliary heads, from what `features` returns."""
        side = [self.aux([maps[self.aux_index]])] if hasattr(self, "aux") else []
        return self.decoder(maps), side

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the loss, on logits that are resized to the images, and those of auxiliary heads."""
        return self.loss_and_logits(images, targets)[0]

    def loss_and_logits(self, images: Tensor, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Tensor]:
        """What `loss` and `logits` return, from one pass; the last images may have no target."""
        labels = torch.stack([t.semantic for t in targets if t.semantic is not None]).long()  # [B, H, W]
        logits, side = self.side_logits(self.features(images))
        terms = self.pixel_loss(logits[: len(labels)], labels)
        for extra in side if self.config.aux.weight else ():
            for name, value in self.pixel_loss(extra[: len(labels)], labels).items():
                terms[f"aux_{name}"] = terms.get(f"aux_{name}", 0) + self.config.aux.weight / len(side) * value
        return terms, logits

    def class_logits(self, images: Tensor) -> Tensor:
        return self.of_classes(self.logits(images))

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, None]:
        terms, logits = self.loss_and_logits(images, targets)
        return terms, self.of_classes(logits)[:, None], None

    def of_classes(self, logits: Tensor) -> Tensor:
        """What `logits` returns, with a channel per class: -> [B, num_classes, h, w]."""
        return logits

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of the loss of [B, num_classes, h, w] logits for labels [B, H, W] int64; 255 is ignored."""
        raise NotImplementedError

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        return self.predictions(raw[0], (raw[0].shape[2], raw[0].shape[3]), frames)

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The mean logit of the class over the pixels.

        Source: Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping,
            arXiv:2002.11434, equation 2.
        """
        logits = self.logits_of_class(raw[0], answer.label).float()
        if answer.points is None:
            return logits.mean((1, 2))
        columns, rows = answer.points.to(logits.device).long().unbind(1)
        return logits[:, rows.clamp(0, logits.shape[1] - 1), columns.clamp(0, logits.shape[2] - 1)].mean(1)

    def logits_of_class(self, logits: Tensor, label: int) -> Tensor:
        """The logits of one class: [B, num_outputs, H, W] -> [B, H, W]."""
        return logits[:, label]

    def infer(self, images: Tensor, frames: Sequence[Frame], *, merging: bool = False) -> list[Prediction]:
        if __debug__:
            inputs.check_images(self, images)
            inputs.check_frames(images, frames)
        (logits,) = self.outputs(images)
        return self.predictions(logits, (images.shape[2], images.shape[3]), frames, merging=merging)

    def predictions(
        self, logits: Tensor, input_size: Size, frames: Sequence[Frame], *, merging: bool = False
    ) -> list[Prediction]:
        """Predictions in pixels of the original images from logits [B, num_classes, h, w] of inputs of (height, width)
        `input_size`."""
        predictions = []
        for values, frame in zip(logits.float(), frames, strict=True):
            share = (frame.resized[0] / input_size[0], frame.resized[1] / input_size[1])
            where: dict[str, Any] = {"share": share, "align_corners": self.config.align_corners}
            if merging:
                cells = tuple(max(1, round(part * side)) for part, side in zip(share, values.shape[1:], strict=True))
                image = values if share == (1, 1) else resampled(values, cells, **where)  # without the padding
                predictions.append(Prediction(logits=image.cpu(), size=frame.original))
            else:
                predictions.append(self.prediction(values, frame.original, **where))
        return predictions

    def prediction(self, logits: Tensor, size: Size, **where: Any) -> Prediction:
        """The prediction of one image of (height, width) `size` from logits [num_classes, h, w]; `where` as for
        `ops.resample.bands`."""
        raise NotImplementedError

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """Images keep their aspect ratio: the shorter side is resized to 512 pixels, or the image is fitted into the
        one input size of the backbone."""
        usual = super().default_preprocess(known, config)
        if usual.resize in ("shortest", "fit"):
            return usual
        if backbones.takes_any_size(config.backbone):
            return dataclasses.replace(usual, size=(512, 2048), crop=1.0, resize="shortest")
        return dataclasses.replace(usual, crop=1.0, resize="fit")
