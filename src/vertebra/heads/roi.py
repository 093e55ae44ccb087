"""Regions of interest: sampling for training, detections, and the layers that read RoI features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, remove_small_boxes

from vertebra.errors import in_range
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.boxes import split_crowd
from vertebra.ops.match import match, sample
from vertebra.ops.nms import nms_top_k
from vertebra.ops.roi import multiscale_roi_align
from vertebra.options import adjustable
from vertebra.structures import Level, Target

Size = tuple[int, int]


@dataclass
class Samples:
    """RoIs of one image that are sampled for training, positives first."""

    boxes: Tensor
    """[S, 4] in input pixels."""
    labels: Tensor
    """[S] int64; background is the number of classes."""
    indices: Tensor
    """[P] int64, the target's instance of each of the P positives; the other S - P are background."""
    gt_boxes: Tensor
    """[P, 4], the boxes of those instances."""
    is_gt: Tensor
    """[S] bool, whether a box is a ground-truth box, not a proposal."""

    @property
    def positive(self) -> Tensor:
        """[P, 4], the boxes of the positives."""
        return self.boxes[: len(self.indices)]


@dataclass
class Detections:
    """Detections in one image, in input pixels."""

    boxes: Tensor
    """[N, 4]."""
    scores: Tensor
    """[N] in 0..1, descending."""
    labels: Tensor
    """[N] int64."""
    valid: Tensor | None = None
    """[N] bool, in exported programs: whether the slot holds a detection; None where all do."""


@dataclass(frozen=True)
class RoIAlign:
    """RoIAlign over the levels of a pyramid."""

    sampling_ratio: int = 2
    """Sampling points per cell and axis; 0 takes as many as there are feature cells."""
    aligned: bool = True
    """Sample pixels at their centres; torchvision's checkpoints use False."""

    def __post_init__(self) -> None:
        in_range("roi_align.sampling_ratio", self.sampling_ratio, 0, 100)

    def pool(
        self, maps: Sequence[Tensor], levels: Sequence[Level], boxes: Sequence[Tensor] | Tensor, size: int
    ) -> Tensor:
        """Features of boxes [N_i, 4] of each image, or [B, N, 4]: [sum of N_i, C, size, size]."""
        return multiscale_roi_align(
            maps,
            [level.stride for level in levels],
            boxes,
            size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )


@dataclass(frozen=True)
class DetectionsConfig:
    """Which detections are returned, of predictions that are no duplicates."""

    score_threshold: float = adjustable(0.05)
    """Detections with a lower score are removed."""
    max_detections: int = adjustable(100)
    """Maximum number of detections per image."""
    min_box_size: float = adjustable(0.01)
    """Boxes with a side below this, in input pixels, are removed. The sources of most checkpoints keep empty boxes."""

    def __post_init__(self) -> None:
        in_range("score_threshold", self.score_threshold, 0, 1)
        in_range("max_detections", self.max_detections, 1, 1_000_000)
        in_range("min_box_size", self.min_box_size, 0, 1_000_000)


@dataclass(frozen=True)
class PostprocessConfig(DetectionsConfig):
    """Which detections are returned."""

    nms_threshold: float = adjustable(0.5)
    """IoU threshold of non-maximum suppression within each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("nms_threshold", self.nms_threshold, 0, 1)

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor, *, class_bound: int | None = None) -> Detections:
        """The top-scoring boxes after removing small boxes and non-maximum suppression in each class.

        Args:
            boxes: [N, 4].
            scores: [N]; in exported programs those at or below `score_threshold` are ignored here, elsewhere the caller
                has removed them.
            labels: [N] int64.
            class_bound: in exported programs, the number of boxes that can exceed the threshold; all if None.

        Returns:
            Detections; in exported programs `max_detections` slots.
        """
        if not torch.compiler.is_compiling():
            kept = remove_small_boxes(boxes, self.min_box_size)
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
            kept = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
            return Detections(boxes[kept], scores[kept], labels[kept])
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_box_size).all(1) & (scores > self.score_threshold)
        scores = torch.where(large, scores, -torch.inf)
        if class_bound is not None and class_bound < len(scores):
            scores, top = scores.topk(class_bound)
            boxes, labels = boxes[top], labels[top]
        index, valid = nms_top_k(boxes, scores, labels, self.nms_threshold, self.max_detections)
        missing = self.max_detections - len(boxes)
        if missing > 0:  # nms_top_k has added empty slots
            boxes = torch.cat((boxes, boxes.new_zeros(missing, 4)))
            scores = torch.cat((scores, scores.new_zeros(missing)))
            labels = torch.cat((labels, labels.new_zeros(missing)))
        scores = torch.where(valid, scores[index], 0.0)
        return Detections(boxes[index] * valid[:, None], scores, labels[index] * valid, valid)


def to_slots(detections: Sequence[Detections], num_slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Detections of B images as tensors of one shape, empty slots last.

    Returns:
        boxes [B, K, 4], scores [B, K], labels [B, K] int64 and counts [B] int64, K = num_slots.
    """
    if torch.compiler.is_compiling():
        counts = torch.stack([d.valid.sum() for d in detections])  # type: ignore[union-attr]
        return (
            torch.stack([d.boxes for d in detections]),
            torch.stack([d.scores for d in detections]),
            torch.stack([d.labels for d in detections]),
            counts,
        )
    counts = torch.tensor([len(d.boxes) for d in detections])
    return (
        spread([d.boxes for d in detections], num_slots),
        spread([d.scores for d in detections], num_slots),
        spread([d.labels for d in detections], num_slots),
        counts,
    )


def spread(parts: Sequence[Tensor], num_slots: int) -> Tensor:
    """Tensors [N_i, ...] with N_i <= K as one, [B, K, ...], filled with zeros."""
    result = parts[0].new_zeros(len(parts), num_slots, *parts[0].shape[1:])
    for i, part in enumerate(parts):
        result[i, : len(part)] = part  # rows as views of their own would take no gradient
    return result


def sample_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    num_classes: int,
    *,
    iou: float,
    batch_size: int,
    positive_fraction: float,
) -> list[Samples]:
    """Samples the RoIs of each image for training.

    Args:
        proposals: [N_i, 4] of each image. The ground-truth boxes are added, so that there are positives from the first
            step on.
        num_classes: label of the background.
        iou: least IoU of a positive with a ground-truth box; below it a RoI is background.
        batch_size: RoIs per image.
        positive_fraction: largest fraction of positives among them.

    Source: Fast R-CNN, arXiv:1504.08083, section 2.3 ("mini-batch sampling").
    """
    samples = []
    for boxes, target in zip(proposals, targets, strict=True):
        assert target.boxes is not None
        assert target.labels is not None
        instances, crowd_boxes = split_crowd(target)
        gt_boxes = target.boxes[instances]
        rois = torch.cat((boxes, gt_boxes))
        matches = match(rois, gt_boxes, crowd_boxes, high=iou, low=iou)
        positive, background = sample(matches, batch_size, positive_fraction)
        matched = matches[positive]
        labels = torch.cat((target.labels[instances][matched], matched.new_full((len(background),), num_classes)))
        index = torch.cat((positive, background))
        samples.append(Samples(rois[index], labels, instances[matched], gt_boxes[matched], index >= len(boxes)))
    return samples


class AveragePool(nn.Module):
    """Mean over each RoI: [R, C, h, w] -> [R, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class LinearTrunk(nn.Module):
    """Convolutions, then linear layers, each with ReLU: [R, C, size, size] -> [R, width].

    Source: two linear layers, arXiv:1612.03144, section 4.2; four convolutions and one, arXiv:1803.08494, section 5.2.
    """

    def __init__(
        self, channels: int, size: int, width: int, *, num_convs: int = 0, num_linears: int = 2, norm: bool = False
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm) for _ in range(num_convs)))
        inputs = [channels * size * size] + [width] * (num_linears - 1)
        self.linears = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.width = width
        init.fill(self.linears, init.uniform)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        for layer in self.linears:
            x = layer(x).relu_()
        return x
