"""What detectors share: the options of all of them, backbone and pyramid, and checkpoints of other libraries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vertebra import backbones, weights
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, check_choices, in_range
from vertebra.heads.roi import PostprocessConfig
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.norm import has_norms, replace_norm
from vertebra.options import training_only
from vertebra.structures import Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks.base import BackboneTask, Size

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
class DetectorConfig(PostprocessConfig):
    """Options of every detector."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's Config to replace."""
    drop_path: float = training_only(0.0)
    """Stochastic depth rate of the backbone's last block; it rises linearly from 0 at the first."""
    norm: Literal["auto", "batch", "frozen", "sync", "group"] = "auto"
    """Norm that replaces the backbone's batch norm: batch norm itself, frozen, synchronised over processes, or group
    norm. `auto` freezes it when training starts from a checkpoint."""
    norm_eps: float | None = None
    """Epsilon of frozen norms; the backbone's if not given. torchvision's first detectors use 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("drop_path", self.drop_path, 0, 1)
        in_range("norm_eps", self.norm_eps, 0, 1)


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


class Detector(BackboneTask):
    """A backbone and heads that predict boxes in input pixels.

    A method writes `forward`, `decode` and `loss`.
    """

    kind = "boxes"
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

    def make_backbone(self, backbone: Backbone | None) -> Backbone:
        """The backbone of the config, or `backbone` itself, with the config's norm."""
        config = self.config
        common: dict[str, Any] = {
            "channels": self.preprocess.channels,
            "drop_path": config.drop_path,
            "level_norms": True,
        }
        if self.preprocess.resize == "fit":
            common["image_size"] = self.preprocess.size
        elif backbone is None and not backbones.takes_any_size(config.backbone):
            raise VertebraError(
                f"{config.backbone} takes one input size, into which images have to be fitted: resize is "
                f"{self.preprocess.resize!r} and must be 'fit'."
            )
        made = backbone or backbones.create(config.backbone, **{**common, **config.backbone_options})
        if config.norm in ("frozen", "sync", "group") and self.needs_norms and not has_norms(made):
            raise VertebraError(
                f"norm is {config.norm!r}, but {config.backbone} has no batch norm that it could replace: leave it out."
            )
        return replace_norm(made, self.backbone_norm, config.norm_eps)  # type: ignore[return-value]

    needs_norms: ClassVar[bool] = True
    """Whether the option `norm` needs a backbone with batch norms."""

    @property
    def backbone_norm(self) -> str:
        """The norm that the backbone is built with."""
        return "batch" if self.config.norm == "auto" else str(self.config.norm)

    def make_neck(self, levels: Sequence[Level], strides: Sequence[int] = (4, 8, 16, 32)) -> Neck:
        """The pyramid over a backbone's levels; over single-scale backbones its strides may differ."""
        config, options = self.config, self.config.neck
        if not {4, 8, 16, 32} <= {level.stride for level in levels}:
            if options.name != "auto":
                raise VertebraError(
                    f"{config.backbone} has maps of one scale, of which {options.name} makes no pyramid: leave "
                    "neck.name out."
                )
            return SimplePyramid(levels, options.channels, skip=4 - len(strides))
        if options.name == "hrfpn":
            # It also makes the coarsest maps, which other pyramids get from `ExtraLevels`.
            coarse = [level for level in levels if level.stride >= 4]
            return HRFPN(coarse, options.channels, 5 if 4 in strides else 4)
        return FPN(levels, options.channels, strides, norm=options.norm != "none")

    def replace_norms(self) -> None:
        """Puts the chosen norms into neck and heads; called when all parts are built."""
        necks = [part for name, part in self.named_children() if name == "neck"]
        heads = [part for name, part in self.named_children() if name not in ("backbone", "neck")]
        for option, kind, parts in (
            ("neck.norm", self.config.neck.norm, necks),
            ("head_norm", self.config.head_norm, heads),
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

    def image_sizes(self, images: Tensor, sizes: Sequence[Size] | None) -> list[Size]:
        """(height, width) of each image without its padding; the whole input if `sizes` is None."""
        return list(sizes) if sizes is not None else [input_size(images)] * len(images)

    @property
    def fresh(self) -> tuple[str, ...]:
        """Prefixes of the parts that may be newly initialised when the backbone alone is loaded."""
        return (*(f"{name}." for name, _ in self.named_children() if name != "backbone"), "head.")

    @property
    def unwanted(self) -> dict[str, str]:
        """Prefixes of tensors that other detectors have and this one does not use, and why."""
        parts = [part for part in ("mask", "keypoint") if not hasattr(self, part)]
        return {f"{part}.": f"this model predicts no {part}s" for part in parts}

    def fill(self, state: Mapping[str, Tensor], report: weights.Report, *, partial: bool = False) -> weights.Report:
        expected = self.state_dict()
        # Frozen norms do not count batches.
        tensors = self.rearranged(state)
        used = {k: t for k, t in tensors.items() if k in expected or not k.endswith("num_batches_tracked")}

        def adapt(name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
            return self.backbone.adapt(name.removeprefix("backbone."), tensor, shape)

        return weights.load(self, used, report, adapt=adapt, unwanted=self.unwanted, partial=partial, fresh=self.fresh)

    def place(self, backbone_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = (name if name.startswith("head.") else f"backbone.{name}" for name in backbone_state)
        return self.rearranged(dict(zip(names, backbone_state.values(), strict=True)))

    def rearranged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of another detector of ours, with the backbone's last stage where this one has it: C4 detectors keep
        it apart, as `stage`."""
        expected = self.state_dict().keys()
        here = f"backbone.stages.{len(getattr(self.backbone, 'stages', ())) - 1}."
        stage = [name for name in state if name.startswith("stage.") and not name.endswith("num_batches_tracked")]
        if not all(here + name.removeprefix("stage.") in expected for name in stage):
            return dict(state)
        return {
            here + name.removeprefix("stage.") if name.startswith("stage.") else name: tensor
            for name, tensor in state.items()
        }

    def check_fits(self, state: Mapping[str, Tensor]) -> None:
        """Checks that a file has no part that this model, built with the file's options, lacks.

        Args:
            state: the file's tensors under this model's names.

        Raises:
            VertebraError: naming the part: the file's network computes with it, so predictions without it are wrong.
        """
        expected, unwanted = self.state_dict(), tuple(self.unwanted)
        problems = []
        for name, tensor in state.items():
            if name not in expected:
                if not name.startswith(unwanted) and not name.endswith("num_batches_tracked"):
                    problems.append(f"{name} has no place in it")
            elif tensor.shape != expected[name].shape and not name.startswith("backbone."):
                problems.append(f"{name} is {list(tensor.shape)}, not {list(expected[name].shape)}")
        if problems:
            raise VertebraError(
                f"this file is of a detector other than {self.method} over {self.config.backbone}: {problems[0]}"
                + (f", and {len(problems) - 1} more." if len(problems) > 1 else ".")
            )


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
