"""RepPoints with two verification tasks: where the corners of boxes are, and what lies within boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, smooth_l1_loss
from torchvision.ops import sigmoid_focal_loss

from vertebra.heads.box import BoxLoss
from vertebra.heads.dense import tower
from vertebra.heads.reppoints import RepPointsHead
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.atss import atss_assign
from vertebra.ops.boxes import split_crowd
from vertebra.ops.corners import (
    corner_pool,
    corner_targets,
    foreground_weights,
    gaussian_radius,
    heatmap_loss,
    snap_to_corners,
)
from vertebra.ops.points import Conversion
from vertebra.structures import Level, Target
from vertebra.weights import Rename

_CORNER = {"tl": 0, "br": 1}


class CornerPooling(nn.Module):
    """Features of a kind of corner: [B, C, h, w] -> same.

    Source: CornerNet, arXiv:1808.01244, section 3.2 and figure 7, with 64 channels in the pooled branches and group
    norm, as in the authors' code of RepPoints v2.
    """

    def __init__(self, channels: int, corner: Literal["top_left", "bottom_right"], *, norm: bool) -> None:
        super().__init__()
        self.corner = corner
        self.vertical, self.horizontal = (ConvNorm(channels, 64, 3, norm=norm) for _ in range(2))
        groups = math.gcd(32, channels)
        self.pooled = nn.Sequential(nn.Conv2d(64, channels, 3, padding=1, bias=False), nn.GroupNorm(groups, channels))
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.GroupNorm(groups, channels))
        self.output = ConvNorm(channels, channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        pooled = corner_pool(self.vertical(x), self.horizontal(x), self.corner)
        y: Tensor = self.output((self.pooled(pooled) + self.shortcut(x)).relu())
        return y


class RepPointsV2Head(RepPointsHead):
    """As RepPointsHead, and of each level logits [B, 2, h, w] that a cell's point is nearest to a top left and to a
    bottom right corner, the offsets [B, 4, h, w] x, y to both in cells, and foreground logits [B, num_classes, h, w].

    Source: RepPoints v2, arXiv:2007.08508, section 3.
    """

    RULES: ClassVar[dict[str, tuple[Rename, ...]]] = {
        "mmdet": (
            *RepPointsHead.RULES["mmdet"],
            Rename(r"^bbox_head\.shared_convs\.", "dense.shared."),
            Rename(r"^bbox_head\.hem_(tl|br)\.", lambda m: f"dense.corner_features.{_CORNER[m[1]]}."),
            Rename(r"^(dense\.corner_features\.\d)\.p1_conv1\.", r"\1.vertical."),
            Rename(r"^(dense\.corner_features\.\d)\.p2_conv1\.", r"\1.horizontal."),
            Rename(r"^(dense\.corner_features\.\d)\.p_conv1\.", r"\1.pooled.0."),
            Rename(r"^(dense\.corner_features\.\d)\.p_gn1\.", r"\1.pooled.1."),
            Rename(r"^(dense\.corner_features\.\d)\.conv1\.", r"\1.shortcut.0."),
            Rename(r"^(dense\.corner_features\.\d)\.gn1\.", r"\1.shortcut.1."),
            Rename(r"^(dense\.corner_features\.\d)\.conv2\.", r"\1.output."),
            Rename(
                r"^bbox_head\.reppoints_hem_(tl|br)_(score|offset)_out\.",
                lambda m: f"dense.corner_{m[2]}s.{_CORNER[m[1]]}.",
            ),
            Rename(r"^bbox_head\.reppoints_sem_out\.", "dense.foreground."),
            Rename(r"^bbox_head\.reppoints_sem_embedding\.", "dense.embedding."),
            Rename(r"^(dense\..+)\.(?:bn|gn)\.", r"\1.norm."),
        ),
    }

    def __init__(
        self,
        levels: Sequence[Level],
        num_classes: int,
        *,
        conversion: Conversion,
        box_loss: BoxLoss,
        norm: bool = False,
    ) -> None:
        super().__init__(levels, num_classes, conversion=conversion, box_loss=box_loss, norm=norm, extra_channels=6)
        channels = levels[0].channels
        self.shared = tower(channels, 1, norm=norm)
        self.foreground = nn.Conv2d(channels, num_classes, 1)
        self.embedding = ConvNorm(channels, channels, 1, norm=norm)
        self.corner_features = nn.ModuleList(
            CornerPooling(channels, corner, norm=norm) for corner in ("top_left", "bottom_right")
        )
        self.corner_scores = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for _ in range(2))
        self.corner_offsets = nn.ModuleList(nn.Conv2d(channels, 2, 3, padding=1) for _ in range(2))
        classifiers: list[Any] = [self.foreground, *self.corner_scores]
        init.fill([*self.shared, *classifiers, *self.corner_offsets], init.normal)
        for layer in classifiers:
            nn.init.constant_(layer.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, maps: Sequence[Tensor]) -> list[Any]:
        results = []
        for x in maps:
            classes, boxes = self.cls_tower(x), self.box_tower(x)
            shared = self.shared(boxes)
            foreground, embedding = self.foreground(shared), self.embedding(shared)
            classes, boxes = classes + embedding, boxes + embedding
            features = [layer(shared + embedding) for layer in self.corner_features]
            scores = torch.cat([layer(y) for layer, y in zip(self.corner_scores, features, strict=True)], 1)
            offsets = torch.cat([layer(y) for layer, y in zip(self.corner_offsets, features, strict=True)], 1)
            initial = self.init_points(self.init_conv(boxes).relu())
            verified = torch.cat((scores, offsets), 1)
            classes, boxes = torch.cat((classes, verified), 1), torch.cat((boxes, verified), 1)
            results.append((*self.refine(classes, boxes, initial), scores, offsets, foreground))
        return results

    def verified_boxes(self, raw: Sequence[Any], limits: Tensor) -> list[Tensor]:
        """Boxes [B, 4, h, w] of each level in input pixels, from the refined points, clipped to the images; those of
        all levels but the first have corners of the heatmap of the first level or, from the fourth on, of the second.

        Args:
            raw: what `forward` returns.
            limits: [B, 4] or [1, 4] width, height, width, height of each image in the input, in pixels.

        Source: arXiv:2007.08508, section 3.3 ("joint inference"), as in the authors' code.
        """
        limits = limits[..., None]
        results = []
        for i, (level, stride) in enumerate(zip(raw, self.strides, strict=True)):
            points = level[2]
            boxes = self.boxes(points, stride).flatten(2).clamp(min=0).minimum(limits)  # [B, 4, h w]
            if i:
                finer = int(i > 2)
                scores, offsets = (x.float() for x in raw[finer][3:5])
                corners = [
                    snap_to_corners(boxes[:, k : k + 2], scores[:, k // 2], offsets[:, k : k + 2], self.strides[finer])
                    for k in (0, 2)
                ]
                boxes = torch.cat(corners, 1).clamp(min=0).minimum(limits)
            results.append(boxes.unflatten(2, points.shape[2:]))
        return results

    def match(self, boxes: Sequence[Tensor], gt_boxes: Tensor, crowd_boxes: Tensor) -> Tensor:
        return atss_assign(boxes, gt_boxes, crowd_boxes)

    def loss(self, raw: Sequence[Any], targets: Sequence[Target], input_size: tuple[int, int]) -> dict[str, Tensor]:
        """The terms of RepPointsHead, and `corners` (focal, of the heatmaps), `corner_offsets` (smooth L1) and
        `foreground` (focal; a positive weighs by one over the area of its box).

        Source: arXiv:2007.08508, sections 3.2 and 3.3; weights as in the authors' code.
        """
        terms = super().loss([level[:3] for level in raw], targets, input_size)
        boxes, labels, crowds = [], [], []
        for target in targets:
            assert target.boxes is not None
            assert target.labels is not None
            instances, crowd_boxes = split_crowd(target)
            boxes.append(target.boxes[instances])
            labels.append(target.labels[instances])
            crowds.append(crowd_boxes)
        sizes = [(level[0].shape[2], level[0].shape[3]) for level in raw]
        ignored = [
            torch.stack([_inside(crowd_boxes, size, stride) for crowd_boxes in crowds])
            for size, stride in zip(sizes, self.strides, strict=True)
        ]
        corners, offsets = self._corner_losses(raw, boxes, ignored)
        foreground = self._foreground_loss(raw, boxes, labels, ignored)
        return terms | {"corners": 0.25 * corners, "corner_offsets": offsets, "foreground": 0.1 * foreground}

    def _corner_losses(
        self, raw: Sequence[Any], boxes: Sequence[Tensor], ignored: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Losses of the heatmaps and of the offsets, means of those of both kinds of corner.

        `boxes` [N_i, 4] are those of each image, and `ignored` [B, h, w] marks cells in crowd regions of each level.
        """
        heat, shift = raw[0][3].float().sum() * 0, raw[0][4].float().sum() * 0
        for k in range(2):
            heat_sum, shift_sum, total = heat * 0, shift * 0, 0
            for i, image_boxes in enumerate(boxes):
                corners, count = image_boxes[:, 2 * k : 2 * k + 2], 0
                radii = gaussian_radius(image_boxes[:, 2:] - image_boxes[:, :2])
                for level, skipped, stride in zip(raw, ignored, self.strides, strict=True):
                    logits, shifts = level[3][i, k].float(), level[4][i, 2 * k : 2 * k + 2].float()
                    size = (logits.shape[0], logits.shape[1])
                    heatmap, points, expected = corner_targets(corners, radii, size, stride)
                    used = (heatmap == 1) | ~skipped[i].flatten()
                    heat_sum = heat_sum + heatmap_loss(logits.flatten()[used], heatmap[used])
                    predicted = shifts.flatten(1).T[points]
                    shift_sum = shift_sum + smooth_l1_loss(predicted, expected, beta=1 / 9, reduction="sum")
                    count += len(points)
                total += max(1, count)
            heat, shift = heat + heat_sum / total / 2, shift + shift_sum / total / 2
        return heat, shift

    def _foreground_loss(
        self, raw: Sequence[Any], boxes: Sequence[Tensor], labels: Sequence[Tensor], ignored: Sequence[Tensor]
    ) -> Tensor:
        """Mean over the positives, weighted by one over the areas of their boxes, and sum over the negatives divided by
        the number of positives."""
        size = (raw[0][5].shape[2], raw[0][5].shape[3])
        pairs = zip(boxes, labels, strict=True)
        finest = torch.stack([foreground_weights(*x, size, self.strides[0], self.num_classes) for x in pairs])
        positive = negative = raw[0][5].float().sum() * 0
        total = count = positive.detach()
        for (*_, logits), skipped in zip(raw, ignored, strict=True):
            weights = interpolate(finest, logits.shape[2:])  # nearest
            losses = sigmoid_focal_loss(logits.float(), (weights > 0).float())
            positive = positive + (losses * weights).sum()
            negative = negative + losses[(weights == 0) & ~skipped[:, None]].sum()
            total, count = total + weights.sum(), count + (weights > 0).sum()
        return positive / total.clamp(min=1e-12) + negative / count.clamp(min=1)


def _inside(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Cells [h, w] of a level that one of [N, 4] boxes covers in part: bool."""
    return foreground_weights(boxes, boxes.new_zeros(len(boxes), dtype=torch.int64), size, stride, 1)[0] > 0
