"""Regions of a picture: what is drawn of them for training, what is found of them, and what they are read by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.boxes import valid
from vertebra.ops.match import match, sample
from vertebra.structures import Target


@dataclass
class Samples:
    """Regions of one picture that are learned from, those of objects first."""

    boxes: Tensor
    """[S, 4] in input pixels."""
    labels: Tensor
    """[S] int64; background is the number of classes."""
    objects: Tensor
    """[P] int64, the target's instance that each of the first P regions belongs to; the other S - P are background."""
    truth: Tensor
    """[P, 4], the boxes of those instances."""

    given: Tensor
    """[S] bool, whether a box is an object's own, which nobody proposed."""

    @property
    def positive(self) -> Tensor:
        """[P, 4], the regions of objects."""
        return self.boxes[: len(self.objects)]


@dataclass
class Detections:
    """What is found in one picture, in input pixels."""

    boxes: Tensor
    """[N, 4]."""
    scores: Tensor
    """[N] in 0..1, falling."""
    labels: Tensor
    """[N] int64."""
    masks: Tensor | None = None
    """[N, M, M] probability of every cell of the box."""
    heatmaps: Tensor | None = None
    """[N, K, M, M] logits of where in the box each keypoint is."""


def draw(
    proposals: Sequence[Tensor], targets: Sequence[Target], classes: int, *, iou: float, count: int, positive: float
) -> list[Samples]:
    """Draws the regions of each picture that are learned from.

    Args:
        proposals: [N_i, 4] of each picture. The objects' own boxes are added, so that there is something to learn
            from the first step on.
        iou: least IoU with an object to belong to it; below it a region is background.
        count: regions of a picture.
        positive: largest share of objects' among them.

    Source: Fast R-CNN, arXiv:1504.08083, section 2.3 ("mini-batch sampling").
    """
    samples = []
    for boxes, target in zip(proposals, targets, strict=True):
        assert target.boxes is not None
        assert target.labels is not None
        kept, crowds = valid(target)
        truth = target.boxes[kept]
        every = torch.cat((boxes, truth))
        matches = match(every, truth, crowds, high=iou, low=iou)
        objects, background = sample(matches, count, positive)
        own = matches[objects]
        labels = torch.cat((target.labels[kept][own], own.new_full((len(background),), classes)))
        drawn = torch.cat((objects, background))
        samples.append(Samples(every[drawn], labels, kept[own], truth[own], drawn >= len(boxes)))
    return samples


class Mean(nn.Module):
    """The mean of each region: [R, C, h, w] -> [R, C]."""

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
        self, channels: int, size: int, width: int, *, convs: int = 0, linears: int = 2, norm: bool = False
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm) for _ in range(convs)))
        inputs = [channels * size * size] + [width] * (linears - 1)
        self.linears = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.width = width
        init.fill(self.linears, init.uniform)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        for layer in self.linears:
            x = layer(x).relu_()
        return x
