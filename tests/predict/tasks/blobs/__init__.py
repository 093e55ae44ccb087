"""A task that needs no training: finds the regions of one brightness on a black ground, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from vertebra.structures import Masks, Points, Prediction
from vertebra.tasks.base import Task


@dataclass(frozen=True)
class Config:
    backbone: str = "none"
    kind: str = "masks"
    points: Points | None = None


class Blobs(Task):
    """The red value r of a region is its class, r % 2, and its score, r / 256."""

    name = "blobs"
    best = "none"

    def __init__(self, config, classes, preprocess):
        super().__init__(config, classes, preprocess)
        self.truth = config.kind
        self.anchor = nn.Parameter(torch.zeros(1))
        self.batches = []
        self.backbone = SimpleNamespace(any_size=True)

    def forward(self, images):
        return images + self.anchor

    def infer(self, images, frames):
        self.batches.append(tuple(images.shape))
        found = []
        for image, frame in zip(self(images), frames, strict=True):
            height, width = frame.scaled
            red = (image[0, :height, :width] * 255).round().int()
            found.append(blobs(red, frame.picture, self.truth))
        return found


def blobs(red, size=None, kind="masks"):
    """The regions of a picture [H, W] int, in pixels of (height, width) `size`."""
    size = tuple(red.shape) if size is None else size
    number = torch.arange(1, red.numel() + 1).reshape(red.shape) * (red > 0)
    while True:
        before = number.clone()
        for here, there in (((slice(1, None),), (slice(None, -1),)), ((..., slice(1, None)), (..., slice(None, -1)))):
            for a, b in ((here, there), (there, here)):
                joined = (red[a] == red[b]) & (red[a] > 0)
                number[a] = torch.where(joined, torch.maximum(number[a], number[b]), number[a])
        if torch.equal(before, number):
            break
    found = []
    for one in number.unique().tolist():
        if one == 0:
            continue
        mask = number == one
        value = int(red[mask][0])
        edges = mask.any(0).nonzero().flatten(), mask.any(1).nonzero().flatten()
        if size != tuple(red.shape):
            mask = nn.functional.interpolate(mask[None, None].float(), size)[0, 0] > 0
        (xs, ys), (sx, sy) = edges, (size[1] / red.shape[1], size[0] / red.shape[0])
        x1, y1, x2, y2 = int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
        ends = [(x1, 0.1 if x1 == 0 else 0.9), (x2, 0.1 if x2 == red.shape[1] else 0.9)]  # unsure where it is cut
        points = [[x * sx, (y1 + y2) / 2 * sy, score] for x, score in ends]
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        found.append((value, [x1 * sx, y1 * sy, x2 * sx, y2 * sy], (left, top), crop, points))
    found.sort(key=lambda one: -one[0])
    return Prediction(
        boxes=torch.tensor([one[1] for one in found], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([one[0] % 2 for one in found], dtype=torch.int64),
        scores=torch.tensor([one[0] / 256 for one in found]),
        masks=Masks(size, [one[2] for one in found], [one[3] for one in found]) if kind == "masks" else None,
        keypoints=torch.tensor([one[4] for one in found]).reshape(-1, 2, 3) if kind == "keypoints" else None,
        size=size,
    )


TASK = Blobs
