"""Keypoints of every region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from vertebra.heads.regions import Samples
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.heatmaps import keypoint_cells
from vertebra.structures import Target
from vertebra.weights import Rename


class KeypointHead(nn.Module):
    """Regions' features to logits of where each keypoint is: [R, C, 14, 14] -> [R, K, 56, 56].

    Source: Mask R-CNN, arXiv:1703.06870, section 5.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            Rename(r"^roi_heads\.keypoint_head\.(\d+)\.", lambda m: f"keypoint.convs.{int(m[1]) // 2}.conv."),
            Rename(r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint.logits."),
        ),
        "mmdet": (),  # it has no Keypoint R-CNN
        "detectron2": (
            Rename(r"^roi_heads\.keypoint_head\.conv_fcn(\d)\.", lambda m: f"keypoint.convs.{int(m[1]) - 1}.conv."),
            Rename(r"^roi_heads\.keypoint_head\.score_lowres\.", "keypoint.logits."),
        ),
    }

    def __init__(self, channels: int, keypoints: int, *, width: int = 512, convs: int = 8) -> None:
        super().__init__()
        inputs = [channels] + [width] * (convs - 1)
        self.convs = nn.Sequential(*(ConvNorm(n, width, 3, norm=False) for n in inputs))
        self.logits = nn.ConvTranspose2d(width, keypoints, 4, 2, 1)
        init.fill([self.logits], init.before_relu)

    def forward(self, x: Tensor) -> Tensor:
        x = self.logits(self.convs(x)).float()  # in half precision the peak would be a plateau
        if not len(x):
            return x.new_zeros(0, x.shape[1], 2 * x.shape[2], 2 * x.shape[3]) + x.sum()
        return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, logits: Tensor, samples: Sequence[Samples], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term `keypoint`, of what `forward` gave for the samples' regions of objects: cross-entropy over the cells
        of the box, for every keypoint that is annotated in it."""
        boxes, logits = [each.positive for each in samples], logits.float()
        truth = [target.keypoints[each.objects] for each, target in zip(samples, targets, strict=True)]  # type: ignore[index]
        cells, inside = keypoint_cells(torch.cat(truth), torch.cat(boxes), logits.shape[-1])
        if not bool(inside.any()):
            return {"keypoint": logits.sum() * 0}
        return {"keypoint": cross_entropy(logits.flatten(2)[inside], cells[inside])}
