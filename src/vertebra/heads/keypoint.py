"""Keypoints of every RoI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from vertebra.heads.roi import Samples
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.heatmaps import keypoints_to_cells
from vertebra.structures import Target
from vertebra.weights import Rename


class KeypointHead(nn.Module):
    """RoI features to keypoint heatmap logits: [R, C, 14, 14] -> [R, K, 56, 56].

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

    def __init__(self, channels: int, num_keypoints: int, *, width: int = 512, num_convs: int = 8) -> None:
        super().__init__()
        inputs = [channels] + [width] * (num_convs - 1)
        self.convs = nn.Sequential(*(ConvNorm(n, width, 3, norm=False) for n in inputs))
        self.logits = nn.ConvTranspose2d(width, num_keypoints, 4, 2, 1)
        init.fill([self.logits], init.before_relu)

    def forward(self, x: Tensor) -> Tensor:
        x = self.logits(self.convs(x)).float()  # in half precision the peak would be a plateau
        if not len(x):
            return x.new_zeros(0, x.shape[1], 2 * x.shape[2], 2 * x.shape[3]) + x.sum()
        return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, logits: Tensor, samples: Sequence[Samples], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term `keypoint`, of the logits of the positive samples: cross-entropy over the cells of the box, of every
        keypoint that is labelled in it."""
        boxes, logits = [s.positive for s in samples], logits.float()
        keypoints = [target.keypoints[s.indices] for s, target in zip(samples, targets, strict=True)]  # type: ignore[index]
        cells, valid = keypoints_to_cells(torch.cat(keypoints), torch.cat(boxes), logits.shape[-1])
        if not bool(valid.any()):
            return {"keypoint": logits.sum() * 0}
        return {"keypoint": cross_entropy(logits.flatten(2)[valid], cells[valid])}
