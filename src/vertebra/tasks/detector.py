"""What detectors share: the options of all of them, backbone and pyramid, and checkpoints of other libraries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image

from vertebra import backbones
from vertebra.errors import VertebraError, check_choices, in_range
from vertebra.heads.roi import PostprocessConfig
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.norm import replace_norm
from vertebra.structures import Answer, Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks.base import Size
from vertebra.tasks.trunk import TrunkConfig, TrunkTask

if TYPE_CHECKING:
    from vertebra.metrics.coco import CocoMetrics

Neck = FPN | HRFPN | SimplePyramid

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2e-4,
    "epochs": 24,
    "warmup": 0.5,
    "clip": 1.0,
    "data.batch_size": 4,
}
"""Training settings of detectors, where they differ from those of classification."""


@dataclass(frozen=True)
class DetectorConfig(TrunkConfig, PostprocessConfig):
    """Options of every detector."""

    def __post_init__(self) -> None:
        TrunkConfig.__post_init__(self)
        PostprocessConfig.__post_init__(self)


@dataclass(frozen=True)
class NeckOptions:
    """The feature pyramid."""

    name: Literal["auto", "fpn", "hrfpn"] = "auto"
    """`hrfpn` is HRNet's. `auto` takes `fpn`, or for single-scale backbones the simple feature pyramid of ViTDet."""
    channels: int = 256
    """Channels of every level."""
    norm: Literal["none", "batch", "sync", "group"] = "none"
    """Norm after the convolutions."""

    def __post_init__(self) -> None:
        check_choices(self)
        in_range("neck.channels", self.channels, 1, 65_536)


@dataclass(frozen=True)
class PyramidConfig(DetectorConfig):
    """Options of detectors over a feature pyramid."""

    neck: NeckOptions = NeckOptions()
    """The feature pyramid."""
    head_norm: Literal["none", "batch", "sync", "group"] = "none"
    """Norm after the convolutions of the heads."""


class Detector(TrunkTask):
    """A backbone and heads that predict boxes in input pixels.

    A method writes `forward`, `decode` and `loss`, and for explanations `candidates`.
    """

    kind = "boxes"
    class_terms: ClassVar[tuple[str, ...]] = ("classification",)
    monitor = "box_ap"
    target_fields: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    unused_parameters = True  # such as the norm of a map that the detector does not use
    iou_types: ClassVar[tuple[str, ...]] = ("box",)
    """What CocoMetrics computes."""

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """Images keep their aspect ratio: the shorter side is resized to 800 pixels, or the image is fitted into the
        one input size of the backbone."""
        usual = super().default_preprocess(known, config)
        if usual.resize in ("shortest", "fit"):
            return usual
        if backbones.takes_any_size(config.backbone):
            return dataclasses.replace(usual, size=(800, 1333), crop=1.0, resize="shortest")
        return dataclasses.replace(usual, crop=1.0, resize="fit")

    def make_neck(
        self, levels: Sequence[Level], strides: Sequence[int] = (4, 8, 16, 32), *, num_levels: int | None = None
    ) -> Neck:
        """The pyramid over a backbone's levels; over single-scale backbones its strides may differ.

        `num_levels` are those of HRFPN, which also makes the coarsest maps that other pyramids get from `ExtraLevels`;
        if None, as many as detectors with anchors use.
        """
        config, options = self.config, self.config.neck
        if not {4, 8, 16, 32} <= {level.stride for level in levels}:
            if options.name != "auto":
                raise VertebraError(
                    f"{config.backbone} has maps of one scale, of which {options.name} makes no pyramid: leave "
                    "neck.name out."
                )
            return SimplePyramid(levels, options.channels, skip=4 - len(strides))
        if options.name == "hrfpn":
            coarse = [level for level in levels if level.stride >= 4]
            return HRFPN(coarse, options.channels, num_levels or (5 if 4 in strides else 4))
        return FPN(levels, options.channels, strides, norm=options.norm != "none")

    def replace_norms(self) -> None:
        """Puts the chosen norms into neck and heads; called when all parts are built."""
        necks = [part for name, part in self.named_children() if name in ("neck", "extra")]
        heads = [part for name, part in self.named_children() if name not in ("backbone", "neck", "extra")]
        for option, kind, parts in (
            ("neck.norm", self.config.neck.norm, necks),
            ("head_norm", getattr(self.config, "head_norm", "none"), heads),  # heads without convolutions have none
        ):
            if kind == "none":
                continue
            if not any(isinstance(module, nn.BatchNorm2d) for part in parts for module in part.modules()):
                hint = f" with {self.config.backbone}." if option == "neck.norm" else ", or choose box_head=4conv1fc."
                raise VertebraError(
                    f"{option} is {kind!r}, but there is no convolution here that a norm follows: leave it out{hint}"
                )
            for part in parts:
                replace_norm(part, kind)

    def metrics(self, **options: Any) -> CocoMetrics:
        from vertebra.metrics.coco import CocoMetrics

        return CocoMetrics(
            len(self.classes), self.iou_types, self.keypoints, max_detections=self.config.max_detections, **options
        )

    def image_sizes(self, images: Tensor, sizes: Sequence[Size] | Tensor | None) -> Any:
        """(height, width) of each image without its padding; the whole input if `sizes` is None."""
        if isinstance(sizes, Tensor):  # in exported programs
            return sizes
        return list(sizes) if sizes is not None else [input_size(images)] * len(images)

    def candidates(self, raw: tuple[Tensor, ...], index: int, label: int) -> tuple[Tensor, Tensor]:
        """What `forward` returns for one image of the batch: boxes [N, 4] in input pixels and their scores [N] for a
        class, in 0..1. Only explanations need them."""
        raise VertebraError(f"{self.method} does not say which boxes it predicts for a class: see candidates.")

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The highest product of a box's score for the class and its IoU with the answer's box.

        Source: D-RISE, arXiv:2006.03204, equations 3 to 5.
        """
        return torch.stack([self.nearest_box(raw, i, answer, size)[1] for i in range(len(raw[0]))])

    def nearest_box(self, raw: tuple[Tensor, ...], index: int, answer: Answer, size: Size) -> tuple[int, Tensor]:
        """For one image of the batch, the index in `candidates` of that product, and the product []."""
        boxes, scores = self.candidates(raw, index, answer.label)
        if not len(boxes):
            return 0, raw[0].sum() * 0.0
        inside = clip_boxes_to_image(boxes.detach().float(), size)  # as predictions are
        products = scores * box_iou(inside, inside.new_tensor([answer.box]))[:, 0]
        best = int(products.argmax())
        return best, products[best]

    @property
    def unwanted(self) -> dict[str, str]:  # type: ignore[override]
        parts = [part for part in ("mask", "keypoint") if not hasattr(self, part)]
        return {f"{part}.": f"this model predicts no {part}s" for part in parts}


def input_size(images: Tensor) -> Size:
    """(height, width) of a batch [B, C, H, W]."""
    return images.shape[-2], images.shape[-1]


def target_sizes(images: Tensor, targets: Sequence[Target]) -> list[Size]:
    """(height, width) of each image without its padding, as its target has it."""
    return [target.size or input_size(images) for target in targets]


def to_prediction(boxes: Tensor, scores: Tensor, labels: Tensor, frame: Frame) -> tuple[Prediction, Tensor]:
    """Boxes [N, 4] in input pixels as a Prediction in pixels of the original image, and the factor [4] between them."""
    (height, width), (resized_height, resized_width) = frame.original, frame.resized
    scale = (width / resized_width, height / resized_height)
    factor = boxes.new_tensor([*scale, *scale])
    prediction = Prediction(boxes=(boxes * factor).cpu(), scores=scores.cpu(), labels=labels.cpu(), size=frame.original)
    return prediction, factor
