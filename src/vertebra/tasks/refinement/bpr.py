"""Boundary patch refinement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vertebra import backbones
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, in_range
from vertebra.heads.decode import resize
from vertebra.heads.segmentation_loss import SegmentationLoss
from vertebra.ops.patches import SIDES
from vertebra.ops.resample import label_map
from vertebra.options import training_only
from vertebra.structures import Prediction, Preprocess
from vertebra.tasks import segmenter
from vertebra.tasks.base import Size
from vertebra.tasks.decoders import HRNetV2Config, HRNetV2Form
from vertebra.tasks.segmenter_sources import BPR_SOURCES
from vertebra.weights import adapt_channels

if TYPE_CHECKING:
    from vertebra.metrics.patches import PatchMetrics

INPUT_SIDES = {"hrnet_w48": 256}
"""Side in pixels of the network's input for a backbone, where it is not the usual one, as in the authors'
configurations."""
INPUT_SIDE = 128
"""The usual one."""


@dataclass(frozen=True)
class Config(HRNetV2Config):
    """The network, and how the patches are cut on which it is trained."""

    backbone: str = "hrnet_w18_small_v2"
    """Public name of the backbone; `vertebra models` lists them."""
    loss: SegmentationLoss = training_only(SegmentationLoss())
    """The training loss."""
    patch_size: int = 64
    """Side of a patch in pixels of the image, even."""
    padding: int = 0
    """Pixels of context on each side that are cut out with a patch and left out of the refined mask."""
    nms_threshold: float = 0.25
    """IoU threshold of NMS between patches: a higher one keeps more of them, which overlap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("patch_size", self.patch_size, *SIDES)
        if self.patch_size % 2:
            raise VertebraError(f"patch_size is {self.patch_size}; it must be even, such as {self.patch_size + 1}.")
        in_range("padding", self.padding, 0, SIDES[1])
        in_range("nms_threshold", self.nms_threshold, 0, 1)


class BoundaryPatchRefinement(HRNetV2Form):
    """A patch of an image and its coarse mask [B, C + 1, H, W] -> logits of background and foreground.

    The mask is the last channel: foreground where it is above 0. A convolution of the image plus one of the mask, as in
    the paper, is one convolution of both, so any backbone does.

    Source: Look Closer to Segment Better, arXiv:2104.05239, section 3.3.
    """

    kind = "patches"
    monitor = "iou"
    fixed_classes = ("background", "foreground")
    extra_channels = 1
    keeps_initial_values = True

    def __init__(
        self, config: Any, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        if len(classes) != 2:
            raise VertebraError(f"refinement has two classes, background and foreground; {len(classes)} are given.")
        if preprocess.channels < 2:
            raise VertebraError(
                f"preprocess has {preprocess.channels} channel; refinement needs those of the image and one for the "
                "coarse mask."
            )
        super().__init__(config, classes, preprocess, backbone)

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """Patches are resized to 128 pixels a side, 256 for HRNet-W48, or to the one input size of the backbone."""
        usual = known or Preprocess()
        if usual.resize == "squash" and usual.channels in (2, 4):  # of a refinement model
            return usual
        side = INPUT_SIDES.get(backbones.public_name(config.backbone), INPUT_SIDE)
        size = (side, side)
        if not backbones.takes_any_size(config.backbone):
            size = super().default_preprocess(None, config).size
        mean, std = (*usual.mean, 0.5), (*usual.std, 0.5)
        return dataclasses.replace(usual, size=size, crop=1.0, resize="squash", mean=mean, std=std)

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        """The first convolution of a model of images: its weights for the coarse mask keep their initial values."""
        channels = shape[1] - 1 if len(shape) == 4 else 0
        if name != f"backbone.{self.backbone.first_conv}" or tensor.shape[1] not in (1, 3):
            return super().adapt(name, tensor, shape)
        image = adapt_channels(tensor, channels) if tensor.shape[1] != channels else tensor
        mask = self.state_dict()[name][:, channels:].to(image.dtype)
        image = image.to(mask.device)
        return torch.cat((image, mask), 1), "its weights for the coarse mask are newly initialised"

    def features(self, images: Tensor) -> list[Tensor]:
        return super().features(_with_signs(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        return super().maps(_with_signs(images))

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """On logits that are resized to the labels."""
        terms: dict[str, Tensor] = self.config.loss(resize(logits, labels.shape[1:], self.config.align_corners), labels)
        return terms

    def prediction(self, logits: Tensor, size: Size, **where: Any) -> Prediction:
        return Prediction(semantic=label_map(logits, size, **where).cpu(), size=size)

    def metrics(self, **options: Any) -> PatchMetrics:
        from vertebra.metrics.patches import PatchMetrics

        return PatchMetrics(self.config.padding, **options)


def _with_signs(images: Tensor) -> Tensor:
    """Images and coarse masks [B, C + 1, H, W] with the masks as -1 and 1."""
    image, mask = images[:, :-1], images[:, -1:]
    return torch.cat((image, (mask > 0).to(image) * 2 - 1), 1)


MODEL = BoundaryPatchRefinement
RECIPE: dict[str, Any] = {**segmenter.RECIPE, "data.batch_size": 32}
SOURCES = BPR_SOURCES

__all__ = ["MODEL", "RECIPE", "SOURCES", "BoundaryPatchRefinement", "Config"]
