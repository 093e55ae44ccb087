"""Two-stage detectors: region proposals, then classification and box regression of RoIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vertebra.backbones import Backbone
from vertebra.backbones.residual import Bottleneck
from vertebra.errors import VertebraError, in_range
from vertebra.heads.box import BoxHead, BoxLoss
from vertebra.heads.cascade import IOUS, STAGE_WEIGHTS, Cascade
from vertebra.heads.roi import (
    AveragePool,
    Detections,
    LinearTrunk,
    RoIAlign,
    Samples,
    sample_rois,
    spread,
    to_slots,
)
from vertebra.heads.rpn import RPN, RPNConfig
from vertebra.necks import ExtraLevels, FusedMap
from vertebra.nn.norm import replace_norm
from vertebra.options import adjustable
from vertebra.structures import Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks.base import Size
from vertebra.tasks.detector import Detector, DetectorConfig, PyramidConfig, input_size, target_sizes, to_prediction


@dataclass(frozen=True)
class TwoStageConfig(RPNConfig, DetectorConfig):
    """Options of two-stage detectors."""

    roi_align: RoIAlign = RoIAlign()
    """RoIAlign."""
    roi_batch_size: int = 512
    """RoIs sampled per image for training."""
    roi_positive_fraction: float = 0.25
    """Largest fraction of positives among them."""
    box_loss: BoxLoss = BoxLoss()
    """Loss of box regression."""

    def __post_init__(self) -> None:
        RPNConfig.__post_init__(self)
        DetectorConfig.__post_init__(self)
        in_range("roi_batch_size", self.roi_batch_size, 1, 1_000_000)
        in_range("roi_positive_fraction", self.roi_positive_fraction, 0, 1)


@dataclass(frozen=True)
class FPNConfig(TwoStageConfig, PyramidConfig):
    """Options of two-stage detectors over a feature pyramid."""

    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """Layers of the box head: two linear, or four convolutions and one linear."""
    box_width: int = 1024
    """Width of the linear layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("box_width", self.box_width, 1, 65_536)


@dataclass(frozen=True)
class CascadeConfig(FPNConfig):
    """Options of cascades."""

    average: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over the stages; MMDetection averages logits."""
    stage_weights: tuple[tuple[float, ...], ...] = STAGE_WEIGHTS
    """One over the standard deviation of the deltas dx, dy, dw, dh, of each stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if [len(stage) for stage in self.stage_weights] != [4] * 3 or min(map(min, self.stage_weights)) <= 0:
            raise VertebraError(
                f"stage_weights is {self.stage_weights}; four numbers above 0 for each of three stages are expected."
            )


@dataclass(frozen=True)
class C4Config(TwoStageConfig):
    """Options of two-stage detectors over a single map (C4)."""

    rpn_pre_nms_top_n_train: int = 12000
    """Top-scoring anchors kept before NMS in training."""
    rpn_pre_nms_top_n_test: int = adjustable(6000)
    """Top-scoring anchors kept before NMS at test."""
    rpn_post_nms_top_n_test: int = adjustable(300)
    """Proposals kept per image after NMS at test."""
    roi_batch_size: int = 64
    """RoIs sampled per image for training."""
    channels: int = 256
    """Over backbones whose last stage cannot be taken off, the fused map has four times as many channels, and the
    stage that replaces it eight times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("channels", self.channels, 1, 65_536)


class TwoStage(Detector):
    """A region proposal network, and a box head on RoI features.

    The form of the detector (`FPNForm`, `CascadeForm`, `C4Form`) builds `rpn`, `box` and the feature maps. Further
    heads add tensors to the raw predictions: `extra_raw`, `extra_loss`, `decode_extra`.
    """

    reads_sizes = True
    has_class_logits = True
    takes_batches = False  # of several images, each has NMS of its own
    rpn: RPN
    box: BoxHead | Cascade
    roi_channels: int
    """Channels of the RoI features."""

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that proposals are made from."""
        raise NotImplementedError

    def roi_features(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """Features of boxes [N_i, 4] of each image: [sum of N_i, C, size, size]."""
        raise NotImplementedError

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Boxes [B, K, 4] in input pixels, scores [B, K] by descending score, labels [B, K] and counts [B] of the slots
        that hold a detection, K = max_detections; then the tensors of further heads, [B, K, ...]."""
        image_sizes = self.image_sizes(images, sizes)
        maps = self.features(images)
        proposals = self.rpn(maps, image_sizes, input_size(images))
        detections = self.detect(maps, proposals, image_sizes)
        slots = to_slots(detections, self.config.max_detections)
        return (*slots, *self.extra_raw(maps, detections))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """L = L_objectness + L_rpn_box + L_classification + L_box (+ L_mask or L_keypoint); a cascade has the last ones
        of every stage."""
        return self._losses(images, targets)[0]

    def _losses(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], list[list[Samples]], list[Tensor]]:
        """The terms, the samples of each stage, and their class logits."""
        sizes = target_sizes(images, targets)
        maps = self.features(images)
        proposals, terms = self.rpn.loss(maps, targets, input_size(images))
        stages, box_terms, logits = self.box_loss(maps, proposals, targets, sizes)
        return terms | box_terms | self.extra_loss(maps, stages, targets), stages, logits

    def region_logits(self, images: Tensor, regions: Sequence[Tensor]) -> Tensor:
        return self.box.class_logits(self.roi_features(self.features(images), regions, 7))

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """The logits are those of the RoIs that are sampled for training, in every stage.

        Source: Learning Efficient Object Detection Models with Knowledge Distillation, NeurIPS 2017, section 3.2.
        """
        terms, stages, logits = self._losses(images, targets)
        parts = [
            of_stage.split([len(s.boxes) for s in samples]) for of_stage, samples in zip(logits, stages, strict=True)
        ]
        by_image = torch.cat([part for of_image in zip(*parts, strict=True) for part in of_image])
        regions = [torch.cat([s.boxes for s in of_image]) for of_image in zip(*stages, strict=True)]
        return terms, by_image[:, None], regions

    def candidates(self, raw: tuple[Tensor, ...], index: int, label: int) -> tuple[Tensor, Tensor]:
        boxes, scores, labels = (x[index] for x in raw[:3])
        return boxes, scores * (labels == label)

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        boxes, scores, labels, counts, *extra = raw
        predictions = []
        for i, frame in enumerate(frames):
            count = int(counts[i])
            box = boxes[i, :count]
            prediction, factor = to_prediction(box, scores[i, :count], labels[i, :count], frame)
            self.decode_extra(prediction, [tensor[i, :count] for tensor in extra], box, factor)
            predictions.append(prediction)
        return predictions

    def detect(self, maps: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]) -> list[Detections]:
        """Detections from the proposals [N_i, 4] of each image."""
        if isinstance(self.box, Cascade):
            return self.box(lambda boxes: self.roi_features(maps, boxes, 7), proposals, sizes)
        logits, deltas = self.box(self.roi_features(maps, proposals, 7))
        return self.box.detect(logits.float().softmax(1), deltas, proposals, sizes)

    def box_loss(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target], sizes: Sequence[Size]
    ) -> tuple[list[list[Samples]], dict[str, Tensor], list[Tensor]]:
        """The samples of each stage (one, except in a cascade), the terms of the box heads, and the class logits of the
        samples of each stage."""
        sampling = {
            "batch_size": self.config.roi_batch_size,
            "positive_fraction": self.config.roi_positive_fraction,
        }
        if isinstance(self.box, Cascade):
            return self.box.loss(lambda boxes: self.roi_features(maps, boxes, 7), proposals, targets, sizes, **sampling)
        samples = sample_rois(proposals, targets, len(self.classes), iou=0.5, **sampling)
        logits, deltas = self.box(self.roi_features(maps, [s.boxes for s in samples], 7))
        return [samples], self.box.loss(logits, deltas, samples), [logits]

    def extra_raw(self, maps: Sequence[Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Raw predictions of further heads for the detections: [B, K, ...] each."""
        return []

    def extra_loss(
        self, maps: Sequence[Tensor], stages: Sequence[Sequence[Samples]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Terms of further heads, from the samples of each stage."""
        return {}

    def decode_extra(self, prediction: Prediction, extra: Sequence[Tensor], boxes: Tensor, factor: Tensor) -> None:
        """Adds to one image's prediction; `boxes` [N, 4] are in input pixels, times `factor` [4] in the image's."""


class FPNForm(TwoStage):
    """A two-stage detector over a feature pyramid.

    Source: arXiv:1612.03144, sections 4.1 and 4.2.
    """

    def __init__(
        self, config: FPNConfig, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.neck = self.make_neck(self.backbone.levels)
        self.roi_levels: tuple[Level, ...] = self.neck.levels[:4]
        self.roi_channels = config.neck.channels
        self.extra = ExtraLevels(self.neck.levels, 5 - len(self.neck.levels))
        scale = config.anchors.scale
        self.rpn = RPN(self.extra.levels, [[scale * level.stride] for level in self.extra.levels], config)
        self.box = self.make_box()
        self.add_heads()
        self.replace_norms()

    def make_box(self) -> BoxHead | Cascade:
        """The box head."""
        config = self.config
        return BoxHead(self.trunk(), len(self.classes), loss=config.box_loss, postprocess=config)

    def add_heads(self) -> None:
        """Builds further heads."""

    def trunk(self) -> nn.Module:
        """The layers of a box head before its predictions."""
        config = self.config
        convs, linears = (4, 1) if config.box_head == "4conv1fc" else (0, 2)
        norm = config.head_norm != "none"
        return LinearTrunk(self.roi_channels, 7, config.box_width, num_convs=convs, num_linears=linears, norm=norm)

    def features(self, images: Tensor) -> list[Tensor]:
        return self.extra(self.neck(self.backbone(images)))

    def roi_features(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        return self.config.roi_align.pool(maps[: len(self.roi_levels)], self.roi_levels, boxes, size)


class CascadeForm(FPNForm):
    """Three box heads in sequence.

    Source: Cascade R-CNN, arXiv:1712.00726.
    """

    class_terms: ClassVar[tuple[str, ...]] = tuple(f"classification{i + 1}" for i in range(len(IOUS)))

    def make_box(self) -> Cascade:
        config = self.config
        return Cascade(
            [self.trunk() for _ in range(3)],
            len(self.classes),
            loss=config.box_loss,
            postprocess=config,
            stage_weights=config.stage_weights,
            average=config.average,
        )


class C4Form(TwoStage):
    """A two-stage detector over a single map, which runs the backbone's last stage on every RoI.

    Families whose last stage cannot be taken off fuse their maps into one, and run three new bottleneck blocks on the
    RoIs.

    Source: arXiv:1506.01497; Mask R-CNN, arXiv:1703.06870, section 3 ("ResNet-50-C4").
    """

    needs_norms: ClassVar[bool] = False  # the stage that is built has norms

    def __init__(
        self, config: C4Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already; without it `config` says which to build."""
        super().__init__(config, classes, preprocess)
        self.backbone = self.make_backbone(backbone)
        self.roi_channels = self.backbone.levels[-1].channels
        stage = self.backbone.pop_last_stage()
        self.fused: FusedMap | None = None
        self.stage_prefix = ""
        if stage is None:
            self.roi_channels = 8 * config.channels
            self.fused = FusedMap(self.backbone.levels, 4 * config.channels)
            # A new stage has no statistics that could be frozen.
            norm = "batch" if self.backbone_norm == "frozen" else self.backbone_norm
            stage = replace_norm(_bottlenecks(self.fused.levels[0].channels, self.roi_channels), norm)
        else:
            self.stage_prefix = f"backbone.stages.{len(self.backbone.stages)}."  # type: ignore[arg-type]
        self.stage = stage
        self.roi_level = self.backbone.levels[-1] if self.fused is None else self.fused.levels[0]
        side = config.anchors.scale * self.roi_level.stride / 4
        self.rpn = RPN([self.roi_level], [[side * 2**i for i in range(5)]], config)
        self.box = BoxHead(AveragePool(self.roi_channels), len(classes), loss=config.box_loss, postprocess=config)
        self.add_heads()

    def add_heads(self) -> None:
        """Builds further heads."""

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        return [maps[-1] if self.fused is None else self.fused(maps)]

    def roi_features(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """Always 7 x 7: the last stage halves 14 x 14."""
        x: Tensor = self.stage(self.config.roi_align.pool(maps, [self.roi_level], boxes, 14))
        return x

    def rearranged(self, state: Any) -> dict[str, Tensor]:
        prefix = self.stage_prefix
        if not prefix:
            return dict(state)
        return {
            f"stage.{name.removeprefix(prefix)}" if name.startswith(prefix) else name: tensor
            for name, tensor in state.items()
        }


def _bottlenecks(inputs: int, outputs: int) -> nn.Sequential:
    """Three bottleneck blocks, as ResNet-50's last stage: [R, inputs, h, w] -> [R, outputs, h / 2, w / 2]."""
    width = outputs // 4
    return nn.Sequential(Bottleneck(inputs, width, 2), Bottleneck(outputs, width), Bottleneck(outputs, width))


def stack_raw(predictions: Tensor, detections: Sequence[Detections], num_slots: int) -> Tensor:
    """Raw predictions [sum of N_i, ...] for the detections as [B, K, ...], empty slots 0; in exported programs every
    N_i is K."""
    parts = predictions.split([len(d.boxes) for d in detections])
    if not torch.compiler.is_compiling():
        return spread(parts, num_slots)
    valid = torch.stack([d.valid for d in detections])  # type: ignore[misc]
    return torch.stack(parts) * valid.view(*valid.shape, *[1] * (predictions.ndim - 1))
