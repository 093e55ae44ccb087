"""What the tasks share that say something of boxes: their options, backbone and pyramid, proposals, and checkpoints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vertebra import backbones, weights
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, in_range
from vertebra.heads.regions import Detections
from vertebra.metrics.coco import CocoMetrics
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.norm import has_norms, renorm
from vertebra.ops.heatmaps import locate_keypoints
from vertebra.ops.masks import paste
from vertebra.structures import Frame, Level, Prediction, Preprocess, Target
from vertebra.tasks import foreign
from vertebra.tasks.base import Task, as_tuples

Size = tuple[int, int]
Neck = FPN | HRFPN | SimplePyramid


@dataclass(frozen=True)
class RegionConfig:
    """The model, and the loss it is trained with. Where nothing else is said, defaults are those of the papers."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's own Config to replace."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone's last block; it rises linearly from 0 at the first."""
    norm: Literal["auto", "batch", "frozen", "sync", "group"] = "auto"
    """Norm in the place of the backbone's batch norm: as it is, frozen, over all processes, or of groups of channels.
    `auto` freezes it when training starts from a checkpoint."""
    norm_eps: float | None = None
    """What frozen norms add to the variance; as it is in the backbone if not given, and 0 in torchvision's first
    detectors."""
    neck_norm: Literal["none", "batch", "sync", "group"] = "none"
    """Norm behind the convolutions of the pyramid."""
    head_norm: Literal["none", "batch", "sync", "group"] = "none"
    """Norm behind the convolutions of the heads."""
    neck: Literal["auto", "fpn", "hrfpn"] = "auto"
    """Pyramid from the backbone's maps: `hrfpn` is HRNet's. `auto` takes `fpn`, or for backbones of a single scale the
    simple pyramid of ViTDet."""
    channels: int = 256
    """Of the pyramid, and of the mask head."""
    anchor_scale: float = 8.0
    """Side of the anchors, in cells of their level: with 8, 32 pixels at stride 4. Lower it for small objects. The
    three anchors of RetinaNet begin at half of it."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    score_threshold: float = 0.05
    """What is less probable is not reported."""
    candidates_test: int | None = None
    """Likeliest answers of each level that go on to non-maximum suppression, there of proposals, in RetinaNet of
    objects; 1000 if not given, and 6000 on a single map (C4)."""
    nms_threshold: float = 0.5
    """Of two boxes of a class that overlap by more (IoU), the less probable is not reported."""
    detections: int = 100
    """Most that is reported of a picture."""
    least_side: float = 0.01
    """In input pixels; a box that is narrower or lower is not reported. Most checkpoints' sources report empty ones."""
    anchor_offset: float = 0.5
    """Where in its cell an anchor's centre lies; the checkpoints of torchvision, Detectron2 and MMDetection want 0."""
    rounded_anchors: bool = False
    """Whether anchors have whole sides, as torchvision's checkpoints want."""
    inferred_strides: bool = False
    """Whether strides are taken from the sizes of input and map, as torchvision's checkpoints want."""

    def __post_init__(self) -> None:
        for name in ("channels", "candidates_test", "detections"):
            in_range(name, getattr(self, name), 1)
        for name in ("score_threshold", "nms_threshold", "drop_path"):
            in_range(name, getattr(self, name), 0, 1)
        for name in ("norm_eps", "least_side"):
            in_range(name, getattr(self, name), 0)
        if not self.anchor_scale > 0:
            raise VertebraError(f"anchor_scale is {self.anchor_scale:g}; it must be more than 0.")
        if not self.anchor_ratios or not all(ratio > 0 for ratio in self.anchor_ratios):
            written = ", ".join(f"{ratio:g}" for ratio in self.anchor_ratios)
            raise VertebraError(f"anchor_ratios is [{written}]; it must hold numbers more than 0, such as [0.5, 1, 2].")


RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2e-4,
    "epochs": 24,
    "warmup": 0.5,
    "clip": 1.0,
    "data.batch_size": 4,
}
"""Settings of a training run that differ from those of classification."""


class RegionTask(Task):
    """A backbone, a pyramid, and heads that answer with boxes in input pixels.

    A method sets `kinds` and writes `forward` and `loss`.
    """

    best = "box_ap"
    truth = "boxes"
    kinds: ClassVar[tuple[str, ...]] = ("box",)
    """What CocoMetrics judges it by."""
    resizes = ("shortest", "fit")
    stage: nn.Module | None
    """What is run on every region instead of a neck, in the C4 forms."""
    cut: str
    """How the names of its tensors begin in the backbone that it was taken from; empty if it was not."""

    def __init__(self, config: Any, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        self.stage, self.cut = None, ""
        without = self.needless()
        for each in dataclasses.fields(config):
            if each.name in without and getattr(config, each.name) != each.default:
                raise VertebraError(
                    f"{config.method} has no option {each.name}: leave it out, or choose another method."
                )

    @classmethod
    def prepares(cls, known: Preprocess, backbone: str) -> Preprocess:
        """Pictures keep their aspect ratio: their shorter side becomes 800 pixels, or they are fitted into the one
        size that the backbone takes."""
        if known.resize in cls.resizes:
            return known
        if backbones.family(backbone).MODEL.any_size:
            return dataclasses.replace(known, size=(800, 1333), crop=1.0, resize="shortest")
        return dataclasses.replace(known, crop=1.0, resize="fit")

    def needless(self) -> set[str]:
        """Options of the task that this method has no use for."""
        return set()

    def make_backbone(self, backbone: Backbone | None) -> Backbone:
        """The backbone that the config asks for, or `backbone` itself."""
        config = self.config
        common: dict[str, Any] = {
            "channels": self.preprocess.channels,
            "drop_path": config.drop_path,
            "level_norms": True,
        }
        if self.preprocess.resize == "fit":
            common["image_size"] = self.preprocess.size
        elif backbone is None and not backbones.family(config.backbone).MODEL.any_size:
            raise VertebraError(
                f"{config.backbone} works at one input size, so pictures have to be fitted into it: resize is "
                f"{self.preprocess.resize!r} and must be 'fit'."
            )
        made = backbone or backbones.create(config.backbone, **{**common, **config.backbone_options})
        # The C4 forms make a last stage with norms where the backbone has none to spare.
        if config.norm in ("frozen", "sync", "group") and not config.method.endswith("_c4") and not has_norms(made):
            raise VertebraError(
                f"norm is {config.norm!r}, but {config.backbone} has no batch norm in whose place it could stand: "
                "leave it out."
            )
        return renorm(made, self.backbone_norm, config.norm_eps)  # type: ignore[return-value]

    @property
    def backbone_norm(self) -> str:
        """The norm that the backbone is made with."""
        return "batch" if self.config.norm == "auto" else str(self.config.norm)

    def make_neck(self, levels: Sequence[Level], strides: Sequence[int] = (4, 8, 16, 32)) -> Neck:
        """The pyramid from a backbone's levels; single-scale backbones may have other strides."""
        config, norm = self.config, self.config.neck_norm != "none"
        if not {4, 8, 16, 32} <= {level.stride for level in levels}:
            if config.neck != "auto":
                raise VertebraError(
                    f"{config.backbone} has maps of one scale, of which {config.neck} makes no pyramid: leave neck out."
                )
            return SimplePyramid(levels, config.channels, skip=4 - len(strides))
        if config.neck == "hrfpn":
            # Of the coarsest maps too, which other pyramids get from `Coarser`.
            return HRFPN([level for level in levels if level.stride >= 4], config.channels, 5 if 4 in strides else 4)
        return FPN(levels, config.channels, strides, norm=norm)

    def finish(self) -> None:
        """To be called when all parts are made: puts the chosen norm into the neck and the heads."""
        necks = [part for name, part in self.named_children() if name == "neck"]
        heads = [part for name, part in self.named_children() if name not in ("backbone", "stage", "neck")]
        for option, parts in (("neck_norm", necks), ("head_norm", heads)):
            kind = getattr(self.config, option)
            if kind == "none":
                continue
            if not any(isinstance(module, nn.BatchNorm2d) for part in parts for module in part.modules()):
                raise VertebraError(
                    f"{option} is {kind!r}, but there is no convolution here that a norm follows: leave it out"
                    + (", or choose box_head=4conv1fc." if option == "head_norm" else f" with {self.config.backbone}.")
                )
            for part in parts:
                renorm(part, kind)

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(
            len(self.classes), self.kinds, getattr(self.config, "points", None), most=self.config.detections
        )

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        found = self(images, [frame.scaled for frame in frames])
        return [self.restored(each, frame) for each, frame in zip(found, frames, strict=True)]

    def restored(self, found: Detections, frame: Frame) -> Prediction:
        """Detections in a picture's own pixels, with masks and keypoints made of their maps, on the CPU."""
        (height, width), (high, wide) = frame.picture, frame.scaled
        factor = found.boxes.new_tensor([width / wide, height / high, width / wide, height / high])
        boxes = (found.boxes * factor).cpu()
        prediction = Prediction(boxes=boxes, scores=found.scores.cpu(), labels=found.labels.cpu(), size=frame.picture)
        if found.masks is not None:
            rounded = self.config.rounded_masks
            prediction.masks = paste(found.masks.cpu(), boxes, frame.picture, rounded=rounded)
        if found.heatmaps is not None:
            keypoints = locate_keypoints(found.heatmaps, found.boxes)
            keypoints[..., :2] *= factor[:2]
            keypoints[..., 2] = keypoints[..., 2].sigmoid()
            prediction.keypoints = keypoints.cpu()
        return prediction

    def load(self, where: str | Path, *, source: str | None = None, partial: bool = False) -> weights.Report:
        """Fills the model from a checkpoint of a whole detector or of a backbone; otherwise as `Backbone.load`.

        A detector of torchvision, Detectron2 or MMDetection is computed as its source computes it: the options that
        this changes are listed in the report.
        """
        state, report = self.read(where, source, check=not partial)
        self.fill(state, report, partial=partial)
        return report

    def fill(self, state: Mapping[str, Tensor], report: weights.Report, *, partial: bool = False) -> None:
        """Fills the model from tensors under its own names, and computes as their source does."""
        own = self.state_dict()
        # A frozen norm does not count.
        wanted = {k: t for k, t in state.items() if k in own or not k.endswith("num_batches_tracked")}

        def adapt(name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
            return self.backbone.adapt(name.removeprefix("backbone."), tensor, shape)

        fresh = (*(f"{name}." for name, _ in self.named_children() if name != "backbone"), "head.")
        weights.load(self, wanted, report, adapt=adapt, unwanted=self.unwanted, partial=partial, fresh=fresh)
        self.settle(report)

    @property
    def unwanted(self) -> dict[str, str]:
        """Prefixes of names that other detectors have and this one has no use for, and why."""
        parts = [part for part in ("mask", "keypoint") if not hasattr(self, part)]
        return {f"{part}.": f"this model answers with no {part}s" for part in parts}

    def differing(self, source: str) -> Mapping[str, Any]:
        """The options in which detectors of a source (a key of foreign.PREFIXES) compute otherwise."""
        return DIFFERENCES.get(source, {})

    def settle(self, report: weights.Report) -> None:
        """Computes as the source of the checkpoint does, and freezes the norms that were loaded if none was chosen.

        An option that was set to something else than its default stays as it is.
        """
        config = self.config
        if changed := self.backbone.settle(report):
            config = dataclasses.replace(config, backbone_options={**config.backbone_options, **changed})
            for module in self.stage.modules() if self.stage is not None and self.cut else ():
                for key, value in changed.items():
                    if hasattr(module, key):
                        setattr(module, key, value)
        source = report.source.partition("/")[0]
        whole = any(name.startswith(("neck.", "rpn.", "dense.", "box.")) for name in report.used)
        usual = {each.name: each.default for each in dataclasses.fields(config) if each.name not in self.needless()}
        differing = self.differing(source)
        if whole and report.options:
            keys = {key for each in DIFFERENCES for key in self.differing(each)}
            differing = {key: as_tuples(report.options[key]) for key in keys & report.options.keys()}
        for key, value in differing.items() if whole else ():
            if key in usual and getattr(config, key) == usual[key] != value:
                config = dataclasses.replace(config, **{key: value})
                report.adapted[key] = f"{value}, as {report.origin} has it"
        loaded: list[nn.Module] = [self.backbone]
        if self.stage is not None and any(name.startswith("stage.") for name in report.used):
            loaded.append(self.stage)
        if config.norm in ("auto", "frozen") and any(map(has_norms, loaded)):
            # torchvision's first detectors were trained with frozen norms, which do not count, and without an eps.
            exact = whole and source == "torchvision" and not report.counted
            eps = config.norm_eps
            if eps is None:
                eps = 0.0 if exact else report.options.get("norm_eps")
            if config.norm == "auto":
                report.adapted["norm"] = "frozen at what the checkpoint has; the option norm chooses otherwise"
            config = dataclasses.replace(config, norm="frozen", norm_eps=eps)
            for part in loaded:
                renorm(part, "frozen", config.norm_eps)
        old, self.config = self.config, config
        for module in self.modules():
            if getattr(module, "config", None) is old:
                module.config = config

    def read(
        self, where: str | Path, source: str | None, *, check: bool = False
    ) -> tuple[dict[str, Tensor], weights.Report]:
        """A checkpoint's tensors under this model's own names.

        Raises:
            VertebraError: with `check`, if it is a detector's that is built otherwise.
        """
        if weights.known(self.backbone.published, where):
            own, report = self.backbone.read(where, source)
            return self.placed(own), report
        state, metadata, path = weights.read(where)
        if "vertebra" in metadata:
            return self.staged(state), weights.Report.own(path, metadata, source)
        try:
            return self.convert(state, source, str(path), check=check)
        except VertebraError as error:
            raise VertebraError(f"{path}: {error}") from error

    def convert(
        self, state: Mapping[str, Tensor], source: str | None, path: str, *, check: bool = False
    ) -> tuple[dict[str, Tensor], weights.Report]:
        """A foreign checkpoint's tensors, of a detector or of a backbone, under this model's own names; see `read`."""
        detector = foreign.recognised(state, source)
        if detector is None:
            inner, dropped, chosen = self.backbone.convert(state, source)
            return self.placed(inner), weights.Report(path, chosen, left_out=dropped)
        options = detector.options(self.name)
        other = {key: value for key, value in options.items() if getattr(self.config, key) != value}
        if check and other:
            wanted = ", ".join(f"{key}={value!r}" for key, value in other.items())
            raise VertebraError(
                f"this is of a detector that is built with {wanted}: create the model with that, or let "
                "vertebra.create(..., weights=...) find it."
            )
        known = {name.partition("/")[0] for name in self.backbone.tables()}
        table = detector.source if detector.source.partition("/")[0] in known else None
        inner, dropped, chosen = self.backbone.convert(detector.inside, table)
        counted = any(name.endswith("num_batches_tracked") for name in state)
        report = weights.Report(path, detector.source, left_out=dropped | detector.left_out, counted=counted)
        tensors = self.placed(inner) | detector.beside
        usual = {each.name: each.default for each in dataclasses.fields(self.config)}
        own = {key: value for key in RESHAPING & usual.keys() if (value := getattr(self.config, key)) != usual[key]}
        own |= {"norm": "group"} if self.config.norm == "group" else {}
        if not other and all(options.get(key) == value for key, value in own.items()):
            self.check_places(tensors, detector.classes != len(self.classes))
        return tensors, report

    def check_places(self, tensors: Mapping[str, Tensor], other_classes: bool) -> None:
        """Looks whether a detector that should be built as this model is, but maybe for `other_classes`, has nothing
        else in it.

        Raises:
            VertebraError: naming what has no place here: the file's network computes with it, so without it the answers
                would be wrong.
        """
        own, unwanted = self.state_dict(), tuple(self.unwanted)
        strange = []
        for name, tensor in tensors.items():
            if name not in own:
                if not name.startswith(unwanted) and not name.endswith("num_batches_tracked"):
                    strange.append(f"{name} has no place in it")
                continue
            adaptable = name.startswith("backbone.") or (other_classes and re.search(CLASS_LAYERS, name))
            if tensor.shape != own[name].shape and not adaptable:
                strange.append(f"{name} is {list(tensor.shape)}, not {list(own[name].shape)}")
        if strange:
            raise VertebraError(
                f"this is of a detector that {self.config.method} over {self.config.backbone} is not: {strange[0]}"
                + (f", as {len(strange) - 1} more." if len(strange) > 1 else ".")
            )

    def placed(self, inner: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a backbone, under its own names, under this model's."""
        return self.staged({n if n.startswith("head.") else f"backbone.{n}": tensor for n, tensor in inner.items()})

    def staged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a model of ours with the backbone's last stage where this model has it: the C4 forms keep it
        apart."""
        there, here = f"backbone.{self.cut}", "stage."
        if not self.cut:
            own = self.state_dict()
            there, here = "stage.", f"backbone.stages.{len(getattr(self.backbone, 'stages', ())) - 1}."
            if not all(here + name.removeprefix(there) in own for name in state if name.startswith(there)):
                return dict(state)
        return {
            here + name.removeprefix(there) if name.startswith(there) else name: tensor
            for name, tensor in state.items()
        }


RESHAPING = {"anchor_ratios", "masks", "points"}
"""Options by which a user makes tensors of a foreign detector fit no longer, and knows it."""
CLASS_LAYERS = r"(^|\.)(classify|deltas|logits)\.(weight|bias)$"
"""Layers that have other shapes for other classes."""

DIFFERENCES: Mapping[str, Mapping[str, Any]] = {
    "torchvision": {
        "anchor_offset": 0.0,
        "rounded_anchors": True,
        "inferred_strides": True,
        "roi_aligned": False,
        "mask_targets": "soft",
        "rounded_masks": True,
    },
    "detectron2": {
        "least_side": 1e-6,
        "anchor_offset": 0.0,
        "proposals_train": 1000,
        "roi_sampling": 0,
        "rpn_beta": 0.0,
        "box_beta": 0.0,
    },
    "mmdet": {
        "least_side": 0.0,
        "anchor_offset": 0.0,
        "rpn_nearest": 0.3,
        "proposals_train": 1000,
        "roi_sampling": 0,
        "rpn_beta": 0.0,
        "box_beta": 0.0,
    },
}
"""By source of checkpoints, the options in which its detectors compute otherwise; methods add their own."""


def extent(images: Tensor) -> Size:
    """(height, width) of a batch [B, C, H, W]."""
    return images.shape[-2], images.shape[-1]


def valid_sizes(images: Tensor, given: Sequence[Size] | Sequence[Target] | None) -> list[Size]:
    """(height, width) of each picture without its padding: as given, or as its target says, else the whole input's."""
    whole = extent(images)
    return [(each.size or whole) if isinstance(each, Target) else each for each in given or [whole] * len(images)]
