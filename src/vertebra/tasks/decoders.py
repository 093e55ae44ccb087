"""Forms of segmenters by their decode head, for label maps and saliency maps alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from vertebra import backbones
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, in_range, shown
from vertebra.heads.decode import DeepLabV3Head, DeepLabV3PlusHead, FCNHead, PanopticFPNHead, UperHead
from vertebra.heads.ocr import OCRHead
from vertebra.necks import FPN, FusedMap
from vertebra.options import training_only
from vertebra.structures import Level
from vertebra.tasks.segmenter import AuxOptions, Segmenter, SegmenterConfig


@dataclass(frozen=True)
class UperNetConfig(SegmenterConfig):
    """Options of UperNet."""

    channels: int = 512
    """Channels of the decode head."""


class UperNetForm(Segmenter):
    """Pyramid pooling, and a feature pyramid whose levels are fused."""

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return UperHead(
            levels, config.channels, num_classes, dropout=config.dropout, align_corners=config.align_corners
        )


@dataclass(frozen=True)
class SemanticFPNConfig(SegmenterConfig):
    """Options of Semantic FPN."""

    channels: int = 128
    """Channels of the decode head."""
    neck_channels: int = 256
    """Channels of the feature pyramid."""
    neck_output: bool = True
    """Whether a 3x3 convolution follows every sum of the feature pyramid."""
    head_norm: Literal["batch", "sync", "group"] = "group"
    """Norm after the convolutions of the head. The paper has group norm, MMSegmentation's models have batch norm."""
    aux: AuxOptions = AuxOptions(weight=0.0)
    """The auxiliary head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("neck_channels", self.neck_channels, 1, 65_536)


class SemanticFPNForm(Segmenter):
    """A feature pyramid, whose levels are upsampled and summed."""

    def make_levels(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        used = super().make_levels(levels)
        if hasattr(self, "neck"):
            if not self.config.neck_output:
                raise VertebraError(f"{self.config.backbone} has maps of one scale, and no FPN: leave neck_output out.")
            return used
        self.fpn = FPN(levels, self.config.neck_channels, self.strides, output=self.config.neck_output)
        return self.fpn.levels

    def features(self, images: Tensor) -> list[Tensor]:
        return self.fpn(self.backbone(images)) if hasattr(self, "fpn") else super().features(images)

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return PanopticFPNHead(
            levels, config.channels, num_classes, dropout=config.dropout, align_corners=config.align_corners
        )


@dataclass(frozen=True)
class HRNetV2Config(SegmenterConfig):
    """Options of the HRNetV2 head."""

    least_channels: ClassVar[int] = 0

    backbone: str = "hrnet_w18"
    """Public name of the backbone; `vertebra models` lists them."""
    channels: int = 0
    """Channels of the decode head; 0 takes those of all maps together."""
    dropout: float = training_only(0.0)
    """Dropout rate of channels before the classifier."""
    head_bias: bool = False
    """Whether the convolution has a bias although a norm follows, as in the authors' code."""
    aux: AuxOptions = AuxOptions(weight=0.0)
    """The auxiliary head."""


class HRNetV2Form(Segmenter):
    """All maps concatenated at the size of the finest."""

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return FCNHead(
            levels,
            config.channels or sum(level.channels for level in levels),
            num_classes,
            kernel=1,
            bias=config.head_bias,
            dropout=config.dropout,
            align_corners=config.align_corners,
        )


@dataclass(frozen=True)
class OCRConfig(SegmenterConfig):
    """Options of object-contextual representations."""

    backbone: str = "hrnet_w18"
    """Public name of the backbone; `vertebra models` lists them."""
    channels: int = 512
    """Channels of the representations of pixels and objects."""
    key_channels: int = 256
    """Channels in which their similarity is computed."""
    dropout: float = training_only(0.05)
    """Dropout rate of channels after their fusion."""
    aux: AuxOptions = AuxOptions()
    """The loss of the soft object regions, which stands in the place of an auxiliary head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("key_channels", self.key_channels, 1, 65_536)


class OCRForm(Segmenter):
    """Pixels that attend to object regions."""

    def make_aux(self, levels: Sequence[Level]) -> None:
        """None is built: the object regions have the loss."""

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return OCRHead(
            levels,
            config.channels,
            num_classes,
            keys=config.key_channels,
            dropout=config.dropout,
            align_corners=config.align_corners,
        )

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.features(images))[0]
        return logits

    def side_logits(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        logits, regions = self.decoder(maps)
        return logits, [regions]


@dataclass(frozen=True)
class DilatedConfig(SegmenterConfig):
    """Options of heads on one coarse map."""

    output_stride: int = 8
    """Input pixels per cell of the coarsest map: 8, 16 or 32, of backbones that can be dilated; over others the maps
    are fused to one of stride 16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride not in (8, 16, 32):
            raise VertebraError(f"output_stride is {self.output_stride}; it must be 8, 16 or 32.")


class DilatedForm(Segmenter):
    """One coarse map, of a dilated backbone or fused from all maps of another one."""

    def make_backbone(self, backbone: Backbone | None, **options: Any) -> Backbone:
        family = backbones.family(self.config.backbone)
        self.dilates = "output_stride" in {field.name for field in dataclasses.fields(family.Config)}
        if self.dilates:
            options["output_stride"] = self.config.output_stride
        return super().make_backbone(backbone, **options)

    def make_levels(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        if self.dilates:
            self.used = [i for i, level in enumerate(levels) if level.stride >= 4]
            return tuple(levels[i] for i in self.used)
        finer = super().make_levels(levels)
        self.fuse = FusedMap(finer, 512)
        return (*(level for level in finer if level.stride < 16), *self.fuse.levels)

    def features(self, images: Tensor) -> list[Tensor]:
        maps = super().features(images)
        if self.dilates:
            return maps
        finer = self.neck.levels if hasattr(self, "neck") else [self.backbone.levels[i] for i in self.used]
        return [*(x for x, level in zip(maps, finer, strict=True) if level.stride < 16), self.fuse(maps)]


@dataclass(frozen=True)
class FCNConfig(DilatedConfig):
    """Options of FCN."""

    channels: int = 512
    """Channels of the decode head."""
    num_convs: int = 1
    """3x3 convolutions before the classifier; torchvision has 1, MMSegmentation 2."""
    concat_input: bool = False
    """Concatenate the convolved map with the map itself, and convolve once more, as MMSegmentation does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("num_convs", self.num_convs, 0, 100)


class FCNForm(DilatedForm):
    """Convolutions on the coarsest map."""

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return FCNHead(
            levels,
            config.channels,
            num_classes,
            last_only=True,
            num_convs=config.num_convs,
            concat_input=config.concat_input,
            dropout=config.dropout,
            align_corners=config.align_corners,
        )


@dataclass(frozen=True)
class DeepLabConfig(DilatedConfig):
    """Options of DeepLab."""

    rates: tuple[int, ...] = (12, 24, 36)
    """Dilations of the 3x3 convolutions, in cells of stride 8; at other strides they are scaled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates or not all(1 <= rate <= 1000 for rate in self.rates):
            values = shown(list(self.rates))
            raise VertebraError(f"rates is {values}; it must hold integers in 1..1000, such as [12, 24, 36].")


class DeepLabV3Form(DilatedForm):
    """Atrous spatial pyramid pooling on the coarsest map."""

    head: ClassVar[type[DeepLabV3Head | DeepLabV3PlusHead]] = DeepLabV3Head

    def make_head(self, levels: Sequence[Level], num_classes: int) -> nn.Module:
        config = self.config
        return self.head(
            levels,
            config.channels,
            num_classes,
            rates=[max(1, rate * 8 // levels[-1].stride) for rate in config.rates],
            dropout=config.dropout,
            align_corners=config.align_corners,
        )


class DeepLabV3PlusForm(DeepLabV3Form):
    """DeepLabV3 with a decoder that reads the finest map too."""

    head = DeepLabV3PlusHead
