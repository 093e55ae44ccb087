"""Keypoint R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vertebra.errors import in_range
from vertebra.heads.keypoint import KeypointHead
from vertebra.heads.roi import Detections, Samples
from vertebra.ops.heatmaps import heatmaps_to_keypoints
from vertebra.structures import COCO_PERSON, Answer, KeypointSchema, Prediction, Target
from vertebra.tasks import zoo
from vertebra.tasks.base import Size
from vertebra.tasks.detector import RECIPE
from vertebra.tasks.detector_sources import FPN_SOURCES, with_options
from vertebra.tasks.sources import Tensors
from vertebra.tasks.two_stage import FPNConfig, FPNForm, stack_raw


@dataclass(frozen=True)
class Config(FPNConfig):
    """The detector and its training loss. Defaults are those of the papers."""

    keypoint_width: int = 512
    """Channels of the keypoint head."""
    keypoint_num_convs: int = 8
    """Convolutions of the keypoint head."""
    keypoints: KeypointSchema = field(default=COCO_PERSON, metadata={"training": True})
    """Names, skeleton, mirror indices and OKS sigmas of the keypoints. Training takes them from the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("keypoint_width", self.keypoint_width, 1, 65_536)
        in_range("keypoint_num_convs", self.keypoint_num_convs, 1, 100)


class KeypointRCNN(FPNForm):
    """[B, C, H, W] -> boxes of each image, each with its keypoints.

    Source: Mask R-CNN, arXiv:1703.06870, section 5.
    """

    kind = "keypoints"
    monitor = "keypoint_ap"
    target_fields = (*FPNForm.target_fields, "keypoints")
    iou_types = ("keypoints", "box")

    def add_heads(self) -> None:
        config = self.config
        self.keypoint = KeypointHead(
            self.roi_channels,
            len(config.keypoints.names),
            width=config.keypoint_width,
            num_convs=config.keypoint_num_convs,
        )

    def extra_raw(self, maps: Sequence[Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Heatmap logits over the boxes: [B, K, keypoints, M, M]."""
        heatmaps = self.keypoint(self.roi_features(maps, [d.boxes for d in detections], 14))
        return [stack_raw(heatmaps, detections, self.config.max_detections)]

    def extra_loss(
        self, maps: Sequence[Tensor], stages: Sequence[Sequence[Samples]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The term `keypoint`."""
        samples = stages[-1]
        logits = self.keypoint(self.roi_features(maps, [s.positive for s in samples], 14))
        return self.keypoint.loss(logits, samples, targets)

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """Of a keypoint, the maximum of its heatmap, as a score, over the object's nearest box; 0 without any."""
        if answer.keypoint is None:
            return super().answer_score(raw, answer, size)
        scores = []
        for i, heatmaps in enumerate(raw[4]):
            slot, product = self.nearest_box(raw, i, answer, size)
            maximum = heatmaps[slot, answer.keypoint].float().amax().sigmoid()
            scores.append(maximum if product > 0 else maximum * 0.0)
        return torch.stack(scores)

    def decode_extra(self, prediction: Prediction, extra: Sequence[Tensor], boxes: Tensor, factor: Tensor) -> None:
        keypoints = heatmaps_to_keypoints(extra[0], boxes)
        keypoints[..., :2] *= factor[:2]
        keypoints[..., 2] = keypoints[..., 2].sigmoid()
        prediction.keypoints = keypoints.cpu()


def _options(tensors: Tensors) -> dict[str, Any]:
    count = tensors.width("keypoint.logits.bias")
    return {
        "keypoint_num_convs": tensors.count(r"keypoint\.convs\.\d+\.conv\.weight") or None,
        "keypoint_width": tensors.width("keypoint.convs.0.conv.bias"),
        "keypoints": None
        if count in (None, len(COCO_PERSON.names))
        else KeypointSchema(tuple(str(i) for i in range(count or 0))),
    }


MODEL = KeypointRCNN
SOURCES = with_options(
    {name: source for name, source in FPN_SOURCES.items() if name != "mmdet"},  # which has no Keypoint R-CNN
    _options,
    {"detectron2": {"rpn_post_nms_top_n_train": 1500, "box_loss.beta": 0.5}},
)

WEIGHTS = {
    **zoo.torchvision("keypointrcnn_resnet50_fpn"),
    **zoo.detectron2(
        "COCO-Keypoints",
        ("keypoint_rcnn_R_50_FPN_1x", "137261548/model_final_04e291", "resnet50", 53.6, 64.0),
        ("keypoint_rcnn_R_50_FPN_3x", "137849621/model_final_a6e10b", "resnet50", 55.4, 65.5),
        ("keypoint_rcnn_R_101_FPN_3x", "138363331/model_final_997cc7", "resnet101", 56.4, 66.1),
        ("keypoint_rcnn_X_101_32x8d_FPN_3x", "139686956/model_final_5ad38f", "resnext101_32x8d", 57.3, 66.0),
    ),
}

__all__ = ["MODEL", "RECIPE", "SOURCES", "WEIGHTS", "Config", "KeypointRCNN"]
